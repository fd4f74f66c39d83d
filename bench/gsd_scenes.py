"""How well a network reads the GSD of drawn scenes that it has not seen.

Scenes are of land uses that it was trained on, and of others.

    python bench/gsd_scenes.py --model runs/nano --out bench/results/gsd_scenes.json

Scenes of 64 pixels from 0.1 to 30 m per pixel, read at their own size. Beside the model's own
head stand read-outs fitted on other scenes of the first kind: of its tokens, of image statistics
(slope and level of the spectrum, contrast) and of the whole spectrum. Differences are paired, on
the same images.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from satdino_nb.data import DatasetTiles
from satdino_nb.evaluate import open_model
from satdino_nb.features import extract_features
from satdino_nb.readout import (
    compare_readouts,
    gsd_difference,
    image_statistics,
    readout_record,
    readout_table,
)
from satdino_nb.scenes import LAND_USES, SceneDataset

sys.path.insert(0, str(Path(__file__).parent))
import common
from mixture import UNSEEN

SIZE, GSD = 64, (0.1, 30.0)
SEEN = [u for u in LAND_USES if u not in UNSEEN]


def scene_tiles(n: int, land_uses: list, seed: int, cache: Path) -> DatasetTiles:
    "`n` scenes of the `land_uses`, of worlds that no other set has."
    return DatasetTiles(SceneDataset(n, land_uses, GSD, SIZE, seed=seed, cache=cache / f'{seed}'))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--model', required=True)
    parser.add_argument('--n', type=int, default=1200, help='scenes of each kind')
    parser.add_argument(
        '--cache', type=Path, default=Path('runs/gsd_scenes'), help='folder for drawn scenes'
    )
    parser.add_argument('--out', type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, kept = open_model(args.model), {}
    sets = {
        'train': (SEEN, 90_001),
        'land uses seen in training': (SEEN, 90_002),
        'land uses never seen': (list(UNSEEN), 90_003),
    }
    tiles = {
        name: scene_tiles(args.n, uses, seed, args.cache) for name, (uses, seed) in sets.items()
    }
    features = {name: extract_features(model, t, SIZE, device='cpu') for name, t in tiles.items()}
    spectrum = {name: image_statistics(t, SIZE, spectrum=True) for name, t in tiles.items()}
    statistics = {name: image_statistics(t, SIZE) for name, t in tiles.items()}
    for name in list(sets)[1:]:
        results = compare_readouts(
            features['train'], features[name], statistics['train'], statistics[name]
        )
        whole = compare_readouts(
            features['train'], features[name], spectrum['train'], spectrum[name]
        )
        results['whole spectrum'] = whole['image statistics']
        print(f'## {name}\n\n{readout_table(results)}\n')
        own = [n for n in results if 'token' in n.lower() or 'head' in n.lower()]
        gaps = {
            common.gap_name(a, b): gsd_difference(results[a], results[b])
            for a in own
            for b in ('image statistics', 'whole spectrum')
        }
        print('\n'.join(f'- {n}: {g} octaves' for n, g in gaps.items()), end='\n\n')
        kept[name] = dict(
            images=len(tiles[name]),
            results=readout_record(results),
            differences_in_octaves={n: vars(g) for n, g in gaps.items()},
        )
    if args.out:
        args.out.write_text(
            json.dumps(dict(model=str(args.model), land_uses_never_seen=UNSEEN, **kept), indent=1)
        )


if __name__ == '__main__':
    main()
