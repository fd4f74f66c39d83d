"""The opponents that need no network, by neighbours, at four scales and by logistic regression.

    python bench/given_split.py path/to/EuroSAT --gsd 10 --out split
    python bench/opponents.py --train split/train.csv --test split/test.csv --out FILE

asks pixels, colour histogram and hand-made features on these tiles (`--name`), and on the test
split of the samples. Features are computed once for each size; `feature_seconds` is that of
all three together, from files, at the tiles' own size.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from satdino_nb.data import open_tiles, sample_tiles
from satdino_nb.engine.protocols import BASELINES, Baseline, Contender, Setup
from satdino_nb.engine.report import Report, ask, describe, report_rows

PROTOCOLS = ('knn', 'scales', 'logistic')


def opponents(train, test) -> dict:
    "Every protocol's numbers with their 95 % intervals, and seconds."
    setup, seconds = Setup(train, test), {}
    start = time.perf_counter()
    setup.features(Baseline(BASELINES[0]))
    feature_seconds = round(time.perf_counter() - start, 1)
    who = [Contender(name, [Baseline(name)]) for name in BASELINES]
    report = Report(describe(setup, who, PROTOCOLS), groups=setup.groups)
    for protocol in PROTOCOLS:
        for w in who:
            start = time.perf_counter()
            report.results += ask(w, protocol, setup)[0]
            seconds[f'{w.name}, {protocol}'] = round(time.perf_counter() - start, 1)
    rows = [r for r in report_rows(report) if r['kind'] == 'value']
    return dict(
        settings=report.settings, feature_seconds=feature_seconds, seconds=seconds, results=rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--train', required=True)
    parser.add_argument('--test', required=True)
    parser.add_argument('--name', default='EuroSAT', help='what the tiles are called in FILE')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--out', type=Path)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    sets = {
        'samples': (sample_tiles('train'), sample_tiles('test')),
        a.name: (open_tiles(a.train), open_tiles(a.test)),
    }
    found = {name: opponents(*tiles) for name, tiles in sets.items()}
    for name, one in found.items():
        print(f'\n{name}: features of all three in {one["feature_seconds"]} s')
        for r in one['results']:
            value, low, high = (f'{100 * r[k]:.1f}' for k in ('value', 'low', 'high'))
            print(
                f'{r["protocol"]}, {r["setting"]}, {r["metric"]}: '
                f'{r["model"]} {value} ({low} to {high})'
            )
    if a.out:
        a.out.write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
    main()
