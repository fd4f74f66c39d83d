"""The learning curve of a run.

What its teacher was worth at each checkpoint it kept, beside features that need no network.

    python bench/learning_curve.py runs/nano --part eurosat --out bench/results/nano_curve.jsonl

asks about the tiles of one part of the run's mixture that the run held out, with those it trained
on as gallery: 20 weighted neighbours and logistic regression. A line a checkpoint; those in the
table already are passed over, so the command can be given again while the run goes on.
`--opponents` adds, from the same tiles, an untrained network of the same shape and the features
that need no network.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from satdino_nb.data import Tiles
from satdino_nb.features import baseline_features, untrained
from satdino_nb.pretrain import read_config, run_tiles
from satdino_nb.vit import SatViT, load_satdino

sys.path.insert(0, str(Path(__file__).parent))
from recipe import judge, measure

TEACHER = 'average.module.backbone.'


def teacher(run: Path, checkpoint: Path) -> SatViT:
    "The teacher's backbone in a checkpoint of `run`."
    model = load_satdino(run / 'model.safetensors', verbose=False)
    state = load_file(checkpoint / 'model.safetensors')
    own = {k.removeprefix(TEACHER): v for k, v in state.items() if k.startswith(TEACHER)}
    model.load_state_dict(own)
    return model.eval()


def part_of(tiles: Tiles, part: str) -> Tiles:
    "The tiles whose class is one of a part's, all of them without a part."
    known = [k for k, c in enumerate(tiles.classes) if c.startswith(f'{part}: ') or not part]
    return tiles.subset(i for i, y in enumerate(tiles.labels) if y in known)


def opponents(model: SatViT, train: Tiles, held: Tiles) -> dict[str, dict]:
    "What an untrained network and features without one are worth on the same tiles."
    with torch.inference_mode():
        found = {'untrained': measure(untrained(model, 0), train, held)}
    gallery, queries = baseline_features(train), baseline_features(held)
    return found | {name: judge(gallery[name], queries[name]) for name in gallery}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('run', type=Path)
    parser.add_argument('--part', default='')
    parser.add_argument('--every', type=int, default=1, help='take every n-th checkpoint')
    parser.add_argument('--opponents', action='store_true')
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    config = read_config(args.run / 'config.json')
    train, held = (part_of(t, args.part) for t in run_tiles(replace(config, check=False)))
    print(f'{len(train)} tiles as gallery, {len(held)} held out')
    lines = args.out.read_text().splitlines() if args.out.is_file() else []
    done = {json.loads(line).get('step') for line in lines}
    if args.opponents:
        model = load_satdino(args.run / 'model.safetensors', verbose=False)
        with args.out.open('a') as f:
            for name, found in opponents(model, train, held).items():
                print(json.dumps(dict(opponent=name, **found)), file=f)
    for checkpoint in sorted((args.run / 'checkpoints').glob('step-*[0-9]'))[:: args.every]:
        step = int(checkpoint.name.split('-')[1])
        if step in done:
            continue
        with torch.inference_mode():
            found = measure(teacher(args.run, checkpoint), train, held)
        row = dict(step=step, samples=step * config.batch_size, **found)
        with args.out.open('a') as f:
            print(json.dumps(row), file=f)
        print(row, flush=True)


if __name__ == '__main__':
    main()
