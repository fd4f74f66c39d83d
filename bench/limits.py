"""Where the scale cannot be read: error and abstention by land use and texture, drawn and real.

    python bench/limits.py --shared path/to/data --out bench/results/limits.json

asks the shipped reader about drawn scenes of every land use and of textures that look alike at
every scale (worlds that neither network nor reader has seen, 0.3 to 10 m), about EuroSAT tiles by
class (training list, tiles that the reader was not fitted on; the network has seen them without
labels), and about UC Merced's val list by class, as windows of three sizes. Each with how evenly
the GSD token's attention lies over the patches, beside that of the same network untrained.
"""

from collections import defaultdict
from pathlib import Path

import common
import numpy as np
import torch
from scale_reader import some

from satdino_nb.attention import last_attention
from satdino_nb.data import DatasetTiles, Tiles, collate
from satdino_nb.engine.scale_reader import read_scale
from satdino_nb.features import extract_features, untrained
from satdino_nb.intervals import bootstrap, share
from satdino_nb.scale import find_reader
from satdino_nb.scenes import LAND_USES, scene
from satdino_nb.views import centre_view
from satdino_nb.vit import load_satdino


def drawn(kind: str, n: int) -> Tiles:
    "Scenes of a land use, 64 pixels, GSDs evenly in the logarithm from 0.3 to 10 m."
    gsds = np.exp(np.random.default_rng(1).uniform(np.log(0.3), np.log(10), n))
    pictures = [scene(kind, 60_000 + i, g, 64).image for i, g in enumerate(gsds)]
    return DatasetTiles(pictures, gsds.tolist())


def eurosat(folder: Path, most: int) -> dict[str, Tiles]:
    "Training tiles by class, without those that `bench/scale_reader.py` drew."
    files = [folder / line for line in sorted((folder / 'train.txt').read_text().split())]
    everything = Tiles(files, [10.0] * len(files))
    used = set(map(str, some(everything, 3000).paths))
    by_class = defaultdict(list)
    for f in files:
        if str(f) not in used:
            by_class[f.parent.name].append(f)
    return {name: some(Tiles(f, [10.0] * len(f)), most) for name, f in sorted(by_class.items())}


def ucmerced(folder: Path) -> dict[str, Tiles]:
    "Windows of 64, 128 and 256 pixels of the val list's images by class."
    by_class = defaultdict(list)
    for line in sorted((folder / 'val.txt').read_text().split()):
        by_class[Path(line).parent.name].append(folder / line)
    found = {}
    for name, files in sorted(by_class.items()):
        tiles = Tiles([f for f in files for _ in range(3)], [0.3048] * 3 * len(files))
        sides = [
            min(side, *tiles[3 * i].image.shape[1:])
            for i in range(len(files))
            for side in (64, 128, 256)
        ]
        for i, side in enumerate(sides):
            height, width = tiles[i].image.shape[1:]
            tiles.boxes[i] = ((height - side) // 2, (width - side) // 2, side, side)
        found[name] = tiles
    return found


def evenness(model, tiles: Tiles, size: int) -> np.ndarray:
    "How evenly the GSD token's attention lies, `(N,)`: exp(entropy) as a share of the patches."
    found = []
    for i in range(0, len(tiles), 64):
        x, _ = centre_view(collate([tiles[j] for j in range(i, min(i + 64, len(tiles)))]), size)
        with torch.inference_mode():
            rows = last_attention(model, model.normalisation(x)).gsd
        p = rows / rows.sum(-1, keepdim=True)
        entropy = -(p * p.clamp(min=1e-12).log()).sum(-1).mean(1)
        found.append(entropy.exp() / p.shape[-1])
    return torch.cat(found).numpy()


def asked(model, fresh, reader, tiles: Tiles) -> dict:
    "What reader and attention say of one kind of pictures."
    features = extract_features(model, tiles, reader.size, precision='fp32')
    answers = read_scale(reader, getattr(features, reader.token))
    wrong = np.abs(np.log2(answers.gsd / features.gsd.numpy()))
    yes = answers.answered
    out = dict(
        pictures=len(tiles),
        answered=common.as_list(share(yes)),
        median_octaves=common.as_list(bootstrap(wrong, np.median)),
        attention=common.as_list(bootstrap(evenness(model, tiles, reader.size), np.mean)),
        attention_untrained=common.as_list(bootstrap(evenness(fresh, tiles, reader.size), np.mean)),
    )
    if yes.sum() > 4:
        out['median_octaves_answered'] = common.as_list(bootstrap(wrong[yes], np.median))
    return out


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument('--shared', type=Path, required=True)
    parser.add_argument('--model', default='satdino-nano')
    parser.add_argument('--pictures', type=int, default=60, help='of each kind')
    parser.add_argument('--out', type=Path)
    args = parser.parse_args()
    model = load_satdino(args.model)
    fresh = untrained(model)
    reader = find_reader(args.model, model)
    kinds = {
        'drawn': {kind: drawn(kind, args.pictures) for kind in (*LAND_USES, 'fractal')},
        'EuroSAT': eurosat(args.shared / 'eurosat', args.pictures),
        'UC Merced': ucmerced(args.shared / 'ucmerced'),
    }
    results = {}
    for data, by_kind in kinds.items():
        results[data] = {}
        for kind, tiles in by_kind.items():
            results[data][kind] = asked(model, fresh, reader, tiles)
            print(data, kind, results[data][kind], flush=True)
    common.write_json(args.out, results)


if __name__ == '__main__':
    main()
