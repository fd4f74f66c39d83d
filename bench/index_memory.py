"""Memory and seconds of opening an index, from ten thousand rows to a million.

    python bench/index_memory.py --out bench/results/index_memory.json
    python bench/index_memory.py --rows 10000 100000

Each size is opened in a process of its own: the rows name one small file, with GSD, class, place
and split. What is said is the peak of the process above what it held before, so reader and
columns together.
"""

import csv
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import parser, processor, write_json


def write_index(path: Path, n: int) -> None:
    "A CSV index of `n` rows."
    (path.parent / 'tile.png').touch()
    with path.open('w', newline='') as f:
        rows = csv.writer(f)
        rows.writerow(('file', 'gsd', 'class', 'place', 'split'))
        for i in range(n):
            split = 'test' if i % 5 == 0 else 'train'
            rows.writerow(('tile.png', 10 + i % 7, f'class {i % 60}', f'place {i // 4}', split))


def opened(path: Path) -> None:
    "Open the index; print rows, MiB above the start, and seconds."
    from satdino_nb.engine.tiles import table_tiles

    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    before = peak()
    start = time.perf_counter()
    tiles = table_tiles(path)
    print(len(tiles), round(peak() - before), round(time.perf_counter() - start, 2))


def main() -> None:
    "Measure each size, and print a table."
    p = parser(__doc__)
    p.add_argument('--rows', type=int, nargs='+', default=[10_000, 100_000, 1_000_000])
    p.add_argument('--out')
    p.add_argument('--index', type=Path, help='open this index in this process')
    a = p.parse_args()
    if a.index:
        return opened(a.index)
    found = []
    print('| rows | MiB | seconds | bytes a row |\n| --- | --- | --- | --- |')
    for n in a.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'index.csv'
            write_index(path, n)
            command = [sys.executable, __file__, '--index', str(path)]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows, mib, seconds = said.split()
        found.append(dict(rows=int(rows), mib=int(mib), seconds=float(seconds)))
        print(f'| {int(rows):,} | {mib} | {seconds} | {int(mib) * 2**20 / n:.0f} |', flush=True)
    write_json(a.out, dict(processor=processor(), sizes=found))


if __name__ == '__main__':
    main()
