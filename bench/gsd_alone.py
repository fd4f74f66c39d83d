"""How well could a network of this shape read the GSD, if it were trained for nothing else?

The bound that the error of the shipped model is held against: the same ViT, its GSD token and
head, trained by the GSD loss alone on drawn scenes, from its start or from the shipped weights.

    python bench/mixture.py --shared path/to/data --out mixture --scenes 36000
    python bench/gsd_alone.py --scenes mixture/scenes.csv --out bench/results/gsd_alone.json

Two views of 64 pixels of each scene, 40 to 100 % of its area, turned and flipped, colours as in the
recipe of the shipped model. A tenth of the scenes is kept out for the curve; in the end come the
test scenes of `gsd_scenes.py`. Before that the shipped model is asked about scenes that it was
trained on and new ones: what it had learnt by heart, it would read better. Median relative errors,
with their 95 % intervals.
"""

import json
import time
from pathlib import Path

import numpy as np
import torch
from common import as_list, machine_line, parser, write_json
from gsd_scenes import SEEN, scene_tiles
from mixture import UNSEEN
from timm.optim import param_groups_weight_decay
from torch import nn

from satdino_nb.data import open_tiles
from satdino_nb.dino import cosine_schedule
from satdino_nb.engine.loading import view_batches
from satdino_nb.engine.objective import gsd_loss
from satdino_nb.engine.recipe import LoaderConfig
from satdino_nb.features import extract_features, untrained
from satdino_nb.intervals import bootstrap
from satdino_nb.views import view_preset
from satdino_nb.vit import load_satdino

MODEL = 'satdino-nano'
TRAINED = 9000  # the first scenes of the mixture, which the shipped model has seen
BATCH = 64  # scenes, of two views each
VIEWS = view_preset(
    'overhead', n_global=2, n_local=0, global_size=64, global_scale=(0.4, 1.0), blur=(0.2, 0, 0)
)


def start(how: str, seed: int) -> nn.Module:
    "The network 'shipped', or one of its shape that is 'untrained'."
    model = load_satdino(MODEL)
    return model if how == 'shipped' else untrained(model, seed)


def relative_errors(model: nn.Module, tiles) -> np.ndarray:
    "Share of the truth by which the head errs on each tile."
    f = extract_features(model, tiles, 64, device='cpu')
    truth = f.gsd.numpy()
    return np.abs(f.gsd_estimate.numpy() - truth) / truth


def learnt_by_heart(tiles, n: int = 1500) -> dict:
    "Errors of the shipped model on scenes that it was trained on, and on others of the same draw."
    number = np.array([int(Path(str(p)).stem.rsplit('_', 1)[1]) for p in tiles.paths])
    model, rng = load_satdino(MODEL), np.random.default_rng(0)
    groups = {
        'trained on': np.flatnonzero(number < TRAINED),
        'new': np.flatnonzero(number >= TRAINED),
    }
    return {
        name: as_list(
            bootstrap(relative_errors(model, tiles.subset(rng.permutation(g)[:n])), np.median)
        )
        for name, g in groups.items()
    }


def train(model: nn.Module, tiles, kept_out, steps: int, lr: float, seed: int) -> list[dict]:
    "The GSD loss alone, by AdamW and a cosine; the error on `kept_out` ten times on the way."
    c = LoaderConfig(views=VIEWS, steps=steps, batch_size=BATCH, seed=seed, workers=0)
    groups = param_groups_weight_decay(model, 0.04, model.no_weight_decay())
    optimiser = torch.optim.AdamW(groups)
    lrs = cosine_schedule(lr, 1e-6, steps, warmup_epochs=steps // 20)
    curve = []
    for step, (_, (views,)) in enumerate(view_batches(tiles, c, torch.device('cpu'))):
        model.train()
        for group in optimiser.param_groups:
            group['lr'] = lrs[step]
        images = views[0].images.flatten(0, 1)
        with torch.autocast('cpu', torch.bfloat16):
            token = model.summary(model.normalisation(images)).gsd
            read = model.gsd_head(token).squeeze(-1)
        loss = gsd_loss(read, views[0].gsd.flatten(), log=True)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimiser.step()
        if (step + 1) % max(1, steps // 10) == 0:
            error = float(np.median(relative_errors(model, kept_out)))
            curve.append(
                dict(samples=(step + 1) * 2 * BATCH, loss=loss.item(), error=round(error, 4))
            )
            print(curve[-1], flush=True)
    return curve


def main() -> None:
    p = parser(__doc__)
    p.add_argument('--scenes', type=Path, required=True, help='table of drawn scenes')
    p.add_argument('--samples', type=int, default=256_000, help='views')
    p.add_argument('--starts', nargs='+', default=['shipped', 'untrained'])
    p.add_argument('--lr', type=float, default=1e-3)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--test', type=int, default=1200, help='test scenes of each kind')
    p.add_argument('--cache', type=Path, default=Path('runs/gsd_scenes'))
    p.add_argument('--out', type=Path)
    args = p.parse_args()
    torch.set_num_threads(1)
    tiles = open_tiles(args.scenes)
    order = np.random.default_rng(args.seed).permutation(len(tiles))
    few, rest = order[: min(1000, len(tiles) // 10)], order[len(tiles) // 10 :]
    tests = {
        'land uses seen in training': scene_tiles(args.test, SEEN, 90_002, args.cache),
        'land uses never seen': scene_tiles(args.test, list(UNSEEN), 90_003, args.cache),
    }
    found = json.loads(args.out.read_text()) if args.out and args.out.is_file() else {}
    if 'trained on or new' not in found:
        found['trained on or new'] = learnt_by_heart(tiles)
        print(found, flush=True)
        write_json(args.out, found)
    for how in args.starts:
        torch.manual_seed(args.seed)
        model, began = start(how, args.seed), time.perf_counter()
        steps = args.samples // (2 * BATCH)
        curve = train(model, tiles.subset(rest), tiles.subset(few), steps, args.lr, args.seed)
        minutes = round((time.perf_counter() - began) / 60, 1)
        errors = {
            name: as_list(bootstrap(relative_errors(model, t), np.median))
            for name, t in tests.items()
        }
        found[how] = dict(
            scenes=len(rest),
            samples=args.samples,
            lr=args.lr,
            seed=args.seed,
            minutes=minutes,
            curve=curve,
            median_relative_error=errors,
            machine=machine_line('1 thread'),
        )
        print(how, errors, flush=True)
        write_json(args.out, found)


if __name__ == '__main__':
    main()
