"""Segmentation of real imagery, split by place.

Frozen linear heads, a fine-tuned pyramid, and baselines.

    python bench/segmentation.py --dubai PATH/dubai_segmentation \\
        --pyramid PATH/buildings_pyramid --out FILE

Either set may be left out. Every image is judged by a segmenter that has seen nothing of its
fold: Dubai's folds are its tiles 1 to 4 (each cut into nine parts); those of the buildings are
columns of map tiles at zoom 19, with all their finer tiles. Intervals are drawn over places
(Dubai's tiles; zoom-19 map tiles). The table is printed as Markdown, and `--out` keeps it, the
confusion tables of all images and the settings as JSON.
"""

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import common
import numpy as np
import torch

from satdino_nb.data import Tiles, mask_tiles
from satdino_nb.gsd import map_tile_gsd
from satdino_nb.intervals import over_seeds
from satdino_nb.segment import (
    HEADS,
    Masked,
    SegmentConfig,
    in_memory,
    majority_result,
    make_segmenter,
    masked_tiles,
    pixel_accuracy,
    raw_pixels,
    segment_folds,
    segment_table,
)
from satdino_nb.vit import SatViT, load_satdino

DUBAI = {
    'building': '3C1098',
    'land': '8429F6',
    'road': '6EC1E4',
    'vegetation': 'FEDD3A',
    'water': 'E2A929',
}


def dubai(path) -> tuple[Masked, list]:
    """Dubai's 36 images (GSD not published), and the tile that each was cut from.

    Unlabelled pixels are ignored.
    """
    tiles = mask_tiles(Path(path) / 'images', Path(path) / 'masks')
    tiles.places = [Path(p).name.split('_')[0] for p in tiles.paths]
    return masked_tiles(tiles, tuple(DUBAI), tuple(DUBAI.values()), other=255), tiles.places


def parent(path, zoom: int = 19) -> tuple[int, int]:
    "`(x, y)` of the map tile at `zoom` that holds the tile of a file named NAME-x-y-z."
    *_, x, y, z = Path(path).stem.split('-')
    return int(x) >> int(z) - zoom, int(y) >> int(z) - zoom


def buildings(path) -> tuple[Masked, list]:
    """The building tiles of three zooms with their exact GSD.

    Each with the column of map tiles at zoom 19 that it lies in.
    """
    parts = [
        mask_tiles(
            Path(path) / f'z{z}' / 'images',
            Path(path) / f'z{z}' / 'masks',
            lambda p: map_tile_gsd(int(p.stem.split('-')[-1]), int(p.stem.split('-')[-2])),
        )
        for z in (19, 20, 21)
    ]
    tiles = Tiles(
        *(sum((getattr(t, name) for t in parts), []) for name in ('paths', 'gsds')),
        masks=sum((t.masks for t in parts), []),
        places=[str(parent(p)) for t in parts for p in t.paths],
    )
    return masked_tiles(tiles, ('other', 'building'), ('000000', 'FFFFFF')), [
        parent(p)[0] for p in tiles.paths
    ]


def fresh(model, seed):
    "The architecture of `model`, untrained."
    torch.manual_seed(seed)
    return SatViT(model.config, model.normalisation).eval()


def contenders(model, seeds):
    "`(name, backbone, head)` of all that is compared."
    yield 'linear, SatDINO', model, 'linear'
    for s in range(seeds):
        yield f'linear, untrained (seed {s})', fresh(model, s), 'linear'
    yield 'linear, raw pixels', raw_pixels(model), 'linear'
    yield 'pyramid, fine-tuned SatDINO', model, 'pyramid'
    yield 'pyramid, from untrained weights', fresh(model, 0), 'pyramid'


def compare(title, data, folds, config, model, seeds):
    "Run all contenders on one set; prints the table, returns the results and what is kept of them."
    data, results, seconds = in_memory(data), [], {}
    for name, backbone, head in contenders(model, seeds):
        start = time.perf_counter()
        results.append(segment_folds(backbone, data, folds, config, head, name))
        seconds[name] = round(time.perf_counter() - start, 1)
        print(
            f'{title}: {name}: {results[-1].estimate()}, {seconds[name]} s',
            file=sys.stderr,
            flush=True,
        )
    results.append(majority_result(data, results[0]))  # the same class, whichever fold is left out
    untrained, by_name = (
        [r.estimate() for r in results if 'linear, untrained' in r.name],
        {r.name: r for r in results},
    )
    pretrained = by_name['pyramid, fine-tuned SatDINO'].minus(
        by_name['pyramid, from untrained weights']
    )
    print(
        f'\n{title}: {len(data)} images, {len(set(folds))} folds, '
        f'{len(set(data.places))} places\n\n{segment_table(results, results[0])}'
    )
    print(
        f'\nlinear, untrained, over seeds: {over_seeds(untrained)}\n'
        f'pyramid, SatDINO minus untrained weights: {pretrained}'
    )
    keep = {
        r.name: dict(
            miou=vars(r.estimate()),
            minus_satdino=vars(r.minus(results[0])),
            pixel_accuracy=pixel_accuracy(r.confusions.sum(0)),
            iou=dict(zip(r.classes, r.iou().tolist())),
            seconds=seconds.get(r.name),
            confusions=r.confusions.tolist(),
        )
        for r in results
    }
    names = [Path(n.split(' (')[0]).name for n in data.names]
    return results, dict(
        classes=data.classes,
        names=names,
        places=data.places,
        folds=[str(f) for f in folds],
        results=keep,
        pyramid_satdino_minus_untrained=vars(pretrained),
    )


def by_zoom(results, paths):
    "Prints and returns mIoU of each result on the tiles of each zoom."
    zooms = np.array([int(Path(p).stem.split('-')[-1]) for p in paths])
    out = {
        r.name: {int(z): r.subset(np.flatnonzero(zooms == z)).estimate() for z in np.unique(zooms)}
        for r in results
    }
    print(
        '\n| mIoU | '
        + ' | '.join(f'zoom {z}' for z in np.unique(zooms))
        + ' |\n|---|'
        + '---|' * len(np.unique(zooms))
    )
    for name, row in out.items():
        print(f'| {name} | ' + ' | '.join(map(str, row.values())) + ' |')
    return {name: {z: vars(e) for z, e in row.items()} for name, row in out.items()}


def main():
    parser = common.parser(__doc__)
    parser.add_argument('--dubai', help='folder with images/ and masks/')
    parser.add_argument('--pyramid', help='folder with z19, z20, z21, each with images/ and masks/')
    parser.add_argument(
        '--model',
        default='satdino-nano',
        help='a SatDINO model; the shipped one by default',
    )
    parser.add_argument('--steps', type=int, default=200)
    parser.add_argument('--overlap', type=float, default=0.25)
    parser.add_argument('--seeds', type=int, default=3, help='of the untrained network')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--out', help='JSON file for the results')
    args = parser.parse_args()
    if not (args.dubai or args.pyramid):
        parser.error('give --dubai, --pyramid or both')
    torch.set_num_threads(args.threads)
    model, start = load_satdino(args.model), time.perf_counter()
    config = SegmentConfig(steps=args.steps, overlap=args.overlap, device=args.device)
    heads = {h: dict(lr=config.lr or make_segmenter(model, 2, h).lr) for h in HEADS}
    report = dict(
        command='python bench/segmentation.py --dubai PATH --pyramid PATH',
        settings=asdict(config),
        head_lr=heads,
        torch=torch.__version__,
        machine=common.processor(),
        threads=torch.get_num_threads(),
        cores=os.cpu_count(),
    )
    if args.dubai:
        _, report['dubai'] = compare('Dubai', *dubai(args.dubai), config, model, args.seeds)
    if args.pyramid:
        data, folds = buildings(args.pyramid)
        results, report['buildings'] = compare('Buildings', data, folds, config, model, args.seeds)
        report['buildings']['by_zoom'] = by_zoom(results, report['buildings']['names'])
    report['seconds'] = round(time.perf_counter() - start, 1)
    print(f'\n{report["seconds"]} s, {report["threads"]} thread, torch {torch.__version__}')
    common.write_json(args.out, report, indent=None)


if __name__ == '__main__':
    main()
