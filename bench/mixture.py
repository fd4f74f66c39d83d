"""The mixture that the model in the box learnt from.

Tables of training tiles, drawn scenes, and `mixture.json`.

    python bench/mixture.py --shared path/to/data --out mixture

reads EuroSAT's and UC Merced's training lists (never a val list), the NEON tiles and the single
GeoTIFFs below `--shared`, draws scenes from 0.1 to 30 m per pixel (all land uses but three, which
stay unseen for a test of the GSD), and writes what `python -m satdino_nb.pretrain --data
mixture/mixture.json` takes. Larger pictures are cut into windows of several sizes, so that a
network whose input is 64 pixels sees their own GSD as well as coarser ones. The building pyramid
stays out: the GSD is tested on it.
"""

import argparse
import csv
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image

from satdino_nb.data import window_boxes
from satdino_nb.scenes import LAND_USES, SceneDataset

UNSEEN = ('harbour', 'orchard', 'parking')  # land uses that the network never sees
SIZES = (64, 128, 256)  # windows of pictures that are larger


def write_table(path: Path, columns: tuple, rows: list) -> None:
    "A CSV table."
    with path.open('w', newline='') as f:
        out = csv.writer(f, lineterminator='\n')
        out.writerow(columns)
        out.writerows(rows)
    print(f'{path}: {len(rows)} tiles')


def eurosat(folder: Path, out: Path) -> dict:
    "EuroSAT's training list, 21,600 tiles at 10 m."
    files = [folder / line for line in sorted((folder / 'train.txt').read_text().split())]
    write_table(
        out / 'eurosat.csv',
        ('file', 'class', 'gsd'),
        [(f.resolve(), f.parent.name, 10) for f in files],
    )
    return dict(data='eurosat.csv')


def ucmerced(folder: Path, out: Path) -> dict:
    """UC Merced's training list at 0.3048 m, as windows of three sizes.

    Each size has the same weight.
    """
    rows = []
    for line in sorted((folder / 'train.txt').read_text().split()):
        with Image.open(folder / line) as image:
            hw = image.height, image.width
        for size in SIZES:
            boxes = window_boxes(hw, size)
            rows += [
                ((folder / line).resolve(), line.split('/')[0], 0.3048, 1 / len(boxes), *box)
                for box in boxes
            ]
    write_table(
        out / 'ucmerced.csv',
        ('file', 'class', 'gsd', 'weight', 'top', 'left', 'height', 'width'),
        rows,
    )
    return dict(data='ucmerced.csv')


def draw(scenes: SceneDataset, folder: Path, k: int) -> tuple:
    "Draw scene `k` into `folder`; its row of the table."
    image, gsd, label = scenes[k]
    name = f'{scenes.classes[label]}_{k:05}.jpg'
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / name, quality=92)
    return f'scenes/{name}', scenes.classes[label], f'{gsd:.6g}'


def scenes(n: int, out: Path, processes: int) -> dict:
    "`n` drawn scenes of 96 pixels, GSD log-uniform from 0.1 to 30 m."
    land_uses = [u for u in LAND_USES if u not in UNSEEN]
    made = SceneDataset(n, land_uses, (0.1, 30.0), 96, seed=20_260)
    (out / 'scenes').mkdir(exist_ok=True)
    with ProcessPoolExecutor(processes) as pool:
        rows = list(pool.map(partial(draw, made, out / 'scenes'), range(n), chunksize=50))
    write_table(out / 'scenes.csv', ('file', 'class', 'gsd'), rows)
    return dict(data='scenes.csv')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--shared',
        type=Path,
        required=True,
        help='folder with eurosat, ucmerced, neon_0.1m and geotiff',
    )
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--scenes', type=int, default=9000)
    parser.add_argument('--processes', type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    parts = [
        eurosat(args.shared / 'eurosat', args.out) | dict(weight=60),
        ucmerced(args.shared / 'ucmerced', args.out) | dict(weight=8),
        scenes(args.scenes, args.out, args.processes) | dict(weight=25),
    ]
    for folder, weight in (('neon_0.1m', 3.5), ('geotiff', 3.5)):
        for size in SIZES:
            parts.append(
                dict(
                    data=str((args.shared / folder).resolve()),
                    name=f'{folder} {size}',
                    weight=round(weight / len(SIZES), 3),
                    windows=dict(size=size, min_valid=0.9),
                )
            )
    (args.out / 'mixture.json').write_text(json.dumps(parts, indent=1))
    print(args.out / 'mixture.json')


if __name__ == '__main__':
    main()
