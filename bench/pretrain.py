"""Milliseconds of a training step by part, and images a second.

A straightforward loop of the same recipe stands beside ours.

    python bench/pretrain.py           # ViT-S/16, 65,536 prototypes, batch 8, on the CPU
    python bench/pretrain.py --vit tiny
    python bench/pretrain.py --loss    # the loss alone, batch 32

Views are the paper's. The loops take turns within one run; of each turn the first steps are left
out, for which the loaders had worked ahead in the others' turn. Medians over the turns are
reported, with the ratio to the plain loop in fp32. `--out FILE` keeps the table as JSON.
"""

import gc
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import common
import torch
from ours import OurLoop
from plain import PlainLoop, plain_loss

from satdino_nb.data import Tiles
from satdino_nb.dino import DINOLoss
from satdino_nb.pretrain import pretrain_preset
from satdino_nb.vit import vit_preset

PARTS = (
    'data wait',
    'views',
    'teacher',
    'student',
    'loss',
    'backward',
    'optimiser',
    'teacher update',
)


def write_scenes(folder, n=8, size=256):
    "Paths of `n` drawn scenes as JPEG files."
    return common.save_jpegs(common.pictures(n, size), folder)


def turns(loops, rounds, steps, skip):
    """Milliseconds of a step of every loop, in all and by part.

    `{name: {part: [one number a round]}}`.
    """
    out = {name: {} for name in loops}
    for r in range(rounds + 1):
        for name, loop in loops.items():
            for _ in range(skip):
                loop.step()
            loop.clock.seconds.clear()
            start = time.perf_counter()
            for _ in range(steps):
                loop.step()
            total = time.perf_counter() - start
            if not r:
                continue  # the first round warms up
            for part, s in {**loop.clock.seconds, 'total': total}.items():
                out[name].setdefault(part, []).append(1000 * s / steps)
    return out


def print_table(out, batch, first):
    "Medians, and the ratio to the loop named `first`, round by round."
    print(f'| ms a step | images/s | ratio | {" | ".join(PARTS)} |\n|{"---|" * (3 + len(PARTS))}')
    for name, parts in out.items():
        ratio = common.median_ratio(out[first]['total'], parts['total'])
        total = statistics.median(parts['total'])
        numbers = ' | '.join(f'{statistics.median(parts.get(p, [0])):.0f}' for p in PARTS)
        print(f'| {name}: {total:.0f} | {1000 * batch / total:.1f} | {ratio:.2f} | {numbers} |')


def loss_alone(batch, rounds, K=65536):
    "Forward and backward of the loss: pair by pair, and ours."
    student, teacher, centre, ours = (
        0.3 * torch.randn(12, batch, K),
        0.3 * torch.randn(2, batch, K),
        torch.zeros(K),
        DINOLoss(K),
    )
    seconds = {'pair by pair': [], 'ours': []}
    for r in range(rounds + 1):
        for name, times in seconds.items():
            x = student.clone().requires_grad_()
            start = time.perf_counter()
            loss = (
                plain_loss(x.flatten(0, 1), teacher.flatten(0, 1), centre, 12, 2, 0.1, 0.04)
                if name != 'ours'
                else ours(x, ours.probabilities(teacher, 0.04))
            )
            loss.backward()
            if r:
                times.append(1000 * (time.perf_counter() - start))
    ratio = common.median_ratio(*seconds.values())
    print(
        f'loss, batch {batch}: '
        + ', '.join(f'{name} {statistics.median(t):.0f} ms' for name, t in seconds.items())
        + f', ratio {ratio:.2f}'
    )
    return {**{name: statistics.median(t) for name, t in seconds.items()}, 'ratio': ratio}


def main():
    p = common.parser(__doc__)
    p.add_argument('--vit', default='small')
    p.add_argument('--batch', type=int, default=8)
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--steps', type=int, default=2)
    p.add_argument('--workers', type=int, default=2)
    p.add_argument('--compile', action='store_true', help='our loop compiled, too')
    p.add_argument('--loss', action='store_true')
    p.add_argument('--out', type=Path)
    a = p.parse_args()
    machine = dict(
        machine=common.processor(), threads=torch.get_num_threads(), torch=torch.__version__
    )
    if a.loss:
        result = [loss_alone(b, a.rounds) for b in (8, 32)]
    else:
        with tempfile.TemporaryDirectory() as folder:
            paths, cpu = write_scenes(folder), torch.device('cpu')
            c = pretrain_preset(
                'paper-s16',
                vit=vit_preset(a.vit),
                batch_size=a.batch,
                epochs=None,
                steps=1000,
                lr=1e-4,
                precision='fp32',
                workers=a.workers,
                check=False,
            )
            tiles = Tiles(paths * 8, [0.5] * 8 * len(paths))
            loops = {
                'plain fp32': PlainLoop(paths, 0.5, c, cpu),
                'ours fp32': OurLoop(tiles, c, cpu),
                'plain bf16': PlainLoop(paths, 0.5, c, cpu, 'bf16'),
                'ours bf16': OurLoop(tiles, replace(c, precision='bf16'), cpu),
            }
            if a.compile:
                loops['ours bf16 compiled'] = OurLoop(
                    tiles, replace(c, precision='bf16', compile=True), cpu
                )
            result = turns(loops, a.rounds, a.steps, skip=a.workers)
            print(f'ViT {a.vit}/16, batch {a.batch}, {a.workers} loading processes, {machine}\n')
            print_table(result, a.batch, 'plain fp32')
            loops.clear()
            gc.collect()  # ends their loading processes
    common.write_json(a.out, dict(machine, vit=a.vit, batch=a.batch, result=result), end='')


if __name__ == '__main__':
    main()
