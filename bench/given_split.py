"""A data set by the lists of the released SatDINO code.

It is written as two tables that the commands of this library read.

    python bench/given_split.py path/to/EuroSAT --gsd 10 --out split
    python bench/given_split.py path/to/UCMerced --gsd 0.3048 --out split_ucm

writes train.csv (EuroSAT: 21,600 rows) and test.csv (5,400). The folder holds the lists train.txt
and val.txt (in the released code, strakaj/SatDINO) and the files that they name, one
`.../<class>/<name>` a line. With `--per-class 400` so many of each class are drawn by seed 0.
"""

import argparse
import csv
import random
from collections import defaultdict
from pathlib import Path

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument('folder', type=Path)
parser.add_argument('--gsd', type=float, required=True, help='metres per pixel of every tile')
parser.add_argument('--out', type=Path, required=True)
parser.add_argument('--per-class', type=int, help='at most so many tiles of each class')
args = parser.parse_args()


def drawn(files: list[Path], most: int) -> list[Path]:
    "At most so many files of each folder, by seed 0."
    folders = defaultdict(list)
    for file in files:
        folders[file.parent].append(file)
    draw = random.Random(0)
    return sorted(
        f for found in folders.values() for f in draw.sample(found, min(most, len(found)))
    )


args.out.mkdir(parents=True, exist_ok=True)
for listed, split in (('train', 'train'), ('val', 'test')):
    source = args.folder / f'{listed}.txt'
    if not source.is_file():
        parser.error(f'{source}: no such list of files')
    files = [args.folder.resolve() / line for line in sorted(source.read_text().split())]
    missing = [f for f in files if not f.is_file()]
    if missing:
        parser.error(
            f'{missing[0]}: listed in {source}, but not there ({len(missing)} of {len(files)})'
        )
    if args.per_class:
        files = drawn(files, args.per_class)
    with (args.out / f'{split}.csv').open('w', newline='') as out:
        rows = csv.writer(out, lineterminator='\n')
        rows.writerow(('file', 'class', 'gsd'))
        rows.writerows((f, f.parent.name, args.gsd) for f in files)
    print(f'{args.out / f"{split}.csv"}: {len(files)} tiles')
