"""Another domain: blood cells and tissue through microscopes, by features learnt from above.

    python bench/microscopes.py --shared path/to/data --out bench/results/microscopes.json

asks two questions of frozen features of `--model`, of the same network untrained, of colours and of
hand-made features: which cell is this (BCCD: white cell, red cell or platelet, windows of one size
about annotated boxes, nearest neighbours), and how large is a pixel (windows of 64 to 448 pixels of
blood smears, and of 48 to 150 pixels of stained tissue, each shown at the network's input size, by
a ridge). Images are kept whole on one side, so no cell of a test image is in the gallery.
"""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import common
import numpy as np
import torch
from PIL import Image

from satdino_nb.data import Tiles
from satdino_nb.evaluate import knn_predict
from satdino_nb.features import baseline_features, extract_features, untrained
from satdino_nb.intervals import bootstrap, difference
from satdino_nb.readout import cross_compare, gsd_difference, image_statistics
from satdino_nb.vit import load_satdino

CELLS = ('WBC', 'RBC', 'Platelets')
WINDOW = 96  # pixels about a cell: a red cell is about 100 pixels across


def window(row: int, col: int, side: int, hw: tuple) -> tuple:
    "A square box about a pixel, moved inside of an image of `hw` pixels."
    top = min(max(row - side // 2, 0), hw[0] - side)
    return top, min(max(col - side // 2, 0), hw[1] - side), side, side


def cells(folder: Path, most: int = 3) -> tuple[Tiles, np.ndarray]:
    "Windows about annotated cells, at most `most` of a kind in an image; numbers of their images."
    files, boxes, labels, images = [], [], [], []
    for number, notes in enumerate(sorted((folder / 'annotations').glob('*.xml'))):
        image = folder / 'images' / f'{notes.stem}.jpg'
        if not image.is_file():
            continue
        with Image.open(image) as picture:
            hw = picture.height, picture.width
        taken = dict.fromkeys(CELLS, 0)
        for found in ElementTree.parse(notes).iter('object'):
            name = found.findtext('name')
            if taken[name] == most:
                continue
            taken[name] += 1
            ends = [int(found.findtext(f'bndbox/{k}')) for k in ('ymin', 'ymax', 'xmin', 'xmax')]
            boxes.append(window(sum(ends[:2]) // 2, sum(ends[2:]) // 2, WINDOW, hw))
            files.append(image)
            labels.append(CELLS.index(name))
            images.append(number)
    tiles = Tiles(files, [1.0] * len(files), labels, classes=list(CELLS))
    for i, box in enumerate(boxes):
        tiles.boxes[i] = box
    return tiles, np.array(images)


def windows(files: list[Path], sides: tuple, seed: int = 0) -> tuple[Tiles, list[str]]:
    "One window of each side somewhere in each image; a pixel of the image counts as 1."
    draw = np.random.default_rng(seed)
    tiles = Tiles([f for f in files for _ in sides], [1.0] * len(files) * len(sides))
    for i, f in enumerate(files):
        with Image.open(f) as picture:
            hw = picture.height, picture.width
        for j, side in enumerate(sides):
            middle = [int(draw.integers(side // 2, n - side // 2 + 1)) for n in hw]
            tiles.boxes[i * len(sides) + j] = window(*middle, side, hw)
    return tiles, [f.name for f in files for _ in sides]


def contenders(model, fresh, tiles: Tiles) -> dict[str, torch.Tensor]:
    "Vectors `(N, D)` of each tile, by name."
    size = model.config.img_size
    ours = extract_features(model, tiles, size, precision='fp32')
    theirs = extract_features(fresh, tiles, size, precision='fp32')
    made = {name: f.cls for name, f in baseline_features(tiles, size).items() if name != 'pixels'}
    return {
        'satdino-nano, CLS': ours.cls,
        'satdino-nano, GSD token': ours.gsd_token,
        'untrained, CLS': theirs.cls,
        'untrained, GSD token': theirs.gsd_token,
        'image statistics': torch.from_numpy(np.asarray(image_statistics(tiles, size))).float(),
        **made,
    }


def which_cell(model, fresh, folder: Path, folds: int = 5) -> dict:
    "Accuracy of 10 neighbours by leaving out images, with the difference to hand-made features."
    tiles, images = cells(folder)
    labels = torch.tensor(tiles.labels)
    fold = torch.from_numpy(np.random.default_rng(0).permutation(images.max() + 1)[images] % folds)
    right = {}
    for name, x in contenders(model, fresh, tiles).items():
        said = torch.zeros(len(tiles), dtype=torch.long)
        for f in range(folds):
            train, test = fold != f, fold == f
            said[test] = knn_predict(x[train], labels[train], x[test], k=10).argmax(1)
        right[name] = (said == labels).numpy()
    base = right['hand-made features']
    return dict(
        windows=len(tiles),
        images=len(set(images)),
        largest_class=round(float(torch.bincount(labels).max() / len(labels)), 4),
        accuracy={name: common.as_list(bootstrap(r, groups=images)) for name, r in right.items()},
        to_hand_made={
            name: common.as_list(difference(r, base, groups=images)) for name, r in right.items()
        },
    )


def how_large(model, fresh, files: list[Path], sides: tuple) -> dict:
    "Error in octaves of a ridge on each contender, images left out, with the constant guess."
    tiles, places = windows(files, sides)
    vectors = contenders(model, fresh, tiles)
    gsd = np.array(sides * len(files)) / model.config.img_size
    results = cross_compare({k: v.numpy() for k, v in vectors.items()}, gsd, places)
    base = results['image statistics']
    return dict(
        windows=len(tiles),
        images=len(files),
        octaves={name: common.as_list(r.numbers['octaves']) for name, r in results.items()},
        to_statistics={
            name: common.as_list(gsd_difference(r, base)) for name, r in results.items()
        },
    )


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument('--shared', type=Path, required=True)
    parser.add_argument('--model', default='satdino-nano')
    parser.add_argument('--out', type=Path)
    args = parser.parse_args()
    model = load_satdino(args.model)
    fresh = untrained(model)
    folder = args.shared / 'microscopy'
    blood = sorted((folder / 'BCCD' / 'images').glob('*.jpg'))
    tissue = sorted(f for f in (folder / 'Kather2016_0.495um').rglob('*') if f.is_file())
    results = dict(
        cells=which_cell(model, fresh, folder / 'BCCD'),
        blood=how_large(model, fresh, blood, (64, 96, 144, 208, 304, 448)),
        tissue=how_large(model, fresh, tissue, (48, 64, 85, 113, 150)),
    )
    for name, result in results.items():
        print(name, result)
    common.write_json(args.out, results)


if __name__ == '__main__':
    main()
