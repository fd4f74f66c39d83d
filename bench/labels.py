"""Accuracy against labels: what is self-supervision worth, and where?

Six ways to classify EuroSAT's test list, with 1 to 100 % of the labels of its training list.

    python bench/given_split.py path/to/EuroSAT --gsd 10 --out split
    python bench/labels.py --train split/train.csv --test split/test.csv --features features \\
        --out bench/results/experiments/labels.csv

Labels are drawn by seed, of each class the same share; a smaller share is part of a larger one. A
row for each way, share and seed is added to the table (`--methods`: of some ways only); rows in it
already are passed over, so the command can be stopped and given again. The model, satdino-nano,
was trained on all images of the training list, without labels, and on none of the test list.

All settings stand in this file, and no row of the test list was used to set them: learning rates
were chosen on a fifth of the training list, by

    python bench/labels.py --train split/train.csv --choose

which gave, for 0.002, 0.004 and 0.008, 87.1, 88.4 and 88.6 % fine-tuned, and 67.8, 67.2 and 66.3 %
from scratch.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from satdino_nb.classify import classify
from satdino_nb.data import Tiles, open_tiles
from satdino_nb.engine.experiments import add_row, commit, machine, read_results
from satdino_nb.engine.setup import fused_attention
from satdino_nb.engine.tiles import split_tiles
from satdino_nb.features import Features, baseline_features, extract_features, untrained
from satdino_nb.finetune import FineTuneConfig, fine_tune, predict_classes
from satdino_nb.vit import load_satdino

MODEL = 'satdino-nano'
SHARES = (1, 3, 10, 30, 100)  # percent of the labels
SEEDS = (0, 1, 2)
STEPS = 200  # of every training of a whole network, whatever the number of labels
TUNED = FineTuneConfig(lr=8e-3, layer_decay=0.75, precision='bf16')
SCRATCH = FineTuneConfig(lr=2e-3, layer_decay=1.0, drop_path=0.0, precision='bf16')
GRID = (2e-3, 4e-3, 8e-3)
FACTS = ('minutes', 'threads', 'machine', 'torch', 'commit')
COLUMNS = ('method', 'share', 'seed', 'labels', 'accuracy', *FACTS)


def drawn(labels: list[int], share: float, seed: int) -> np.ndarray:
    "Indices of the tiles whose labels are known: `share` percent of each class, at least one."
    y = np.array(labels)
    known = []
    for k in np.unique(y):
        members = np.random.default_rng([seed, int(k)]).permutation(np.flatnonzero(y == k))
        known.append(members[: max(1, round(share / 100 * len(members)))])
    return np.sort(np.concatenate(known))


def recipe(c: FineTuneConfig, n: int, seed: int) -> FineTuneConfig:
    "A recipe of about `STEPS` steps for `n` tiles, a tenth of them warm-up."
    epochs = max(1, round(STEPS / max(1, n // c.batch_size)))
    return replace(c, epochs=epochs, warmup_epochs=epochs / 10, seed=seed)


class Asked:
    """The tiles, and features of them, computed once and kept in a folder."""

    def __init__(self, train: Tiles, test: Tiles, kept: Path | None = None):
        self.train = train
        self.test = test
        self.kept = kept
        self.model = fused_attention(load_satdino(MODEL), False)  # faster in bf16 on a CPU
        self.seen = cache(self.features)
        self.hand_made = cache(self.baseline)

    def features(self, seed: int | None = None) -> tuple[Features, Features]:
        "Features of the model; with a seed, of an untrained network of its shape."
        model = self.model if seed is None else self.fresh(seed)
        see = partial(extract_features, model, precision='bf16', cache=self.kept)
        return see(self.train), see(self.test)

    def fresh(self, seed: int):
        "An untrained network of the model's shape."
        return fused_attention(untrained(self.model, seed), False)

    def baseline(self) -> tuple[Features, Features]:
        "Colour, texture and gradients (lesson 07.2)."
        both = (baseline_features(t)['hand-made features'] for t in (self.train, self.test))
        return tuple(both)


def frozen(a: Asked, pair: tuple[Features, Features], how: str, known, seed: int) -> torch.Tensor:
    "Scores of the test tiles by a classifier on features, from the labels at `known`."
    return classify(pair[0].subset(known), pair[1], how, seed=seed).scores


def tuned(a: Asked, model, c: FineTuneConfig, known, seed: int) -> torch.Tensor:
    "Scores of the test tiles by a network that was trained on the labels at `known`."
    net, _ = fine_tune(model, a.train.subset(known), recipe(c, len(known), seed), 'cpu')
    with torch.autocast('cpu', torch.bfloat16):
        return predict_classes(net, a.test).scores


METHODS: dict[str, Callable] = {
    'hand-made, linear': lambda a, *ask: frozen(a, a.hand_made(), 'logistic', *ask),
    'frozen, kNN': lambda a, *ask: frozen(a, a.seen(), 'knn', *ask),
    'frozen, linear': lambda a, *ask: frozen(a, a.seen(), 'logistic', *ask),
    'fine-tuned': lambda a, *ask: tuned(a, a.model, TUNED, *ask),
    'from scratch': lambda a, k, s: tuned(a, a.fresh(s), SCRATCH, k, s),
    'untrained, linear': lambda a, k, s: frozen(a, a.seen(s), 'logistic', k, s),
}


def right(scores: torch.Tensor, tiles: Tiles) -> float:
    "Share of the tiles whose highest score is that of their class."
    return (scores.argmax(1) == torch.tensor(tiles.labels)).float().mean().item()


def choose(train: Tiles) -> None:
    "Print what each learning rate reaches on a fifth of the training list, and nothing else."
    a = Asked(*split_tiles(train, 0.2, seed=0))
    known = drawn(a.train.labels, 10, 100)
    for name, model, c in (
        ('fine-tuned', a.model, TUNED),
        ('from scratch', a.fresh(100), SCRATCH),
    ):
        for lr in GRID:
            found = right(tuned(a, model, replace(c, lr=lr), known, 100), a.test)
            print(f'{name}, lr {lr:g}: {found:.4f}', flush=True)


def run(a: Asked, out: Path, methods: list[str]) -> None:
    "Add the rows that are not there, seed by seed; those of untrained networks last."
    done = {(r['method'], r['share'], r['seed']) for r in read_results(out)}
    last = tuple(METHODS)[-1:]
    for names in ([m for m in methods if m not in last], [m for m in methods if m in last]):
        for name, share, seed in ((n, h, s) for s in SEEDS for h in SHARES for n in names):
            if (name, share, seed) in done:
                continue
            row = one_row(a, name, share, seed)
            add_row(out, COLUMNS, row)
            print(row, flush=True)


def one_row(a: Asked, name: str, share: float, seed: int) -> dict:
    "Ask one way with one share of the labels."
    known = drawn(a.train.labels, share, seed)
    began = time.perf_counter()
    accuracy = round(right(METHODS[name](a, known, seed), a.test), 5)
    minutes = round((time.perf_counter() - began) / 60, 2)
    facts = (minutes, torch.get_num_threads(), machine(), version('torch'), commit())
    return dict(zip(COLUMNS, (name, share, seed, len(known), accuracy, *facts)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--train', type=Path, required=True)
    parser.add_argument('--test', type=Path)
    parser.add_argument('--features', type=Path, help='folder to keep features in')
    parser.add_argument('--out', type=Path)
    parser.add_argument(
        '--methods', nargs='+', choices=METHODS, default=list(METHODS), help='without: all'
    )
    parser.add_argument('--choose', action='store_true', help='learning rates, without a test list')
    args = parser.parse_args()
    train = open_tiles(args.train)
    if args.choose:
        return choose(train)
    if args.test is None or args.out is None:
        parser.error('--test and --out are needed')
    run(Asked(train, open_tiles(args.test), args.features), args.out, args.methods)


if __name__ == '__main__':
    main()
