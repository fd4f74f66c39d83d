"""A search for a recipe.

Variants of one pretraining run at equal samples seen, compared on a split of the training list.

    python bench/recipe.py --data split/train.csv --samples 100000 --seeds 0 \\
        --out bench/results/recipe.jsonl trial upright

trains each named variant (all of `VARIANTS` where none is named) for each seed on four fifths of
the tiles and asks the frozen teacher about the last fifth: weighted kNN (20 neighbours) and
logistic regression, with the effective rank of its features and, where the tiles differ in GSD, the
median relative error of the GSD that its head reads from whole tiles. Names that begin with
'result' change the preset `small-images`, the others the trial.

One line of JSON a run is added to the table; runs in it already are passed over, so the command
can be stopped and given again. The test list is never opened.
"""

import argparse
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from satdino_nb.data import check_images, open_tiles, split_tiles
from satdino_nb.dino import effective_rank
from satdino_nb.features import extract_features
from satdino_nb.pretrain import PretrainConfig, knn_predict, pretrain, pretrain_preset
from satdino_nb.views import view_preset
from satdino_nb.vit import ViTConfig

TRIAL = PretrainConfig(
    views=view_preset('overhead', global_size=48, local_size=24),
    vit=ViTConfig(img_size=64, patch_size=8, embed_dim=128, depth=4, num_heads=4),
    batch_size=128,
    centring='sinkhorn',
    out_dim=2048,
    hidden_dim=512,
    bottleneck_dim=128,
    drop_path=0.0,
    lr=1e-3,
    warmup=0.1,
    momentum=(0.992, 1.0),
    gamma=0.02,
    precision='bf16',
    held_out=0.2,
    check=False,
    workers=1,
    log_every=100,
    save_every=100_000,
)
RESULT = pretrain_preset(
    'small-images',
    epochs=None,
    precision='bf16',
    held_out=0.2,
    check=False,
    workers=1,
    knn_every=0,
    log_every=100,
    save_every=100_000,
)


def views(**changes):
    return lambda c: replace(c, views=replace(c.views, **changes))


def vit(**changes):
    return lambda c: replace(c, vit=replace(c.vit, **changes))


def run(**changes):
    return lambda c: replace(c, **changes)


# name: what changes in TRIAL, or below in RESULT
VARIANTS = {
    'trial': run(),
    'upright': views(vertical_flip=0.0, quarter_turn=0.0),
    'mean centring': run(centring='mean', teacher_temp=(0.04, 0.07)),
    'colour of the paper': views(
        brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, grey=0.2, solarise=0.2
    ),
    'half colour': views(brightness=0.12, contrast=0.12, saturation=0.05, hue=0.01),
    'no colour': views(jitter=0.0),
    'blur of the paper': views(blur=(1.0, 0.1, 0.5)),
    'no blur': views(blur=(0.0, 0.0, 0.0)),
    'crops of the paper': views(global_scale=(0.25, 1.0), local_scale=(0.05, 0.25)),
    'larger crops': views(global_scale=(0.5, 1.0), local_scale=(0.15, 0.5)),
    'random sampling': views(sampling='random'),
    'lr 5e-4': run(lr=5e-4),
    'lr 2e-3': run(lr=2e-3),
    'momentum 0.98': run(momentum=(0.98, 1.0)),
    'momentum 0.998': run(momentum=(0.998, 1.0)),
    '512 prototypes': run(out_dim=512),
    '4096 prototypes': run(out_dim=4096),
    'batch 256': run(batch_size=256),
    'teacher 0.06': run(teacher_temp=(0.06, 0.06)),
    'coding rate': run(objective='coding-rate'),
    'views 64/32': views(global_size=64, local_size=32),
    'views 32/16': views(global_size=32, local_size=16),
    'ten locals': views(n_local=10),
    'two locals': views(n_local=2),
    'gamma 0': run(gamma=0.0),
    'drop path 0.1': run(drop_path=0.1),
    # what changes in RESULT
    'result': run(),
    'result, fixed GSD head': run(train_gsd_head=False),
    'result, GSD in metres': vit(gsd_log=False),
    'result, fixed head, metres': lambda c: replace(vit(gsd_log=False)(c), train_gsd_head=False),
    'result, gamma 0.1': run(gamma=0.1),
    'result, gamma 0.01': run(gamma=0.01),
    'result, shuffled GSD': run(shuffle_gsd=True),
}


def measure(model, train, held) -> dict:
    "What the frozen backbone is worth on held-out tiles of the training list."
    return judge(*(extract_features(model, t, precision='fp32') for t in (train, held)))


def judge(gallery, queries) -> dict:
    "Weighted kNN (20 neighbours), logistic regression and the effective rank of features."
    scores = knn_predict(gallery.cls, gallery.labels, queries.cls, k=20)
    scale = StandardScaler().fit(gallery.cls)
    probe = LogisticRegression(max_iter=300).fit(scale.transform(gallery.cls), gallery.labels)
    found = dict(
        knn=(scores.argmax(1) == queries.labels).float().mean().item(),
        logistic=float(probe.score(scale.transform(queries.cls), queries.labels)),
        rank=effective_rank(queries.cls - queries.cls.mean(0)).item(),
    )
    if queries.gsd_estimate is not None and len(queries.gsd.unique()) > 1:
        found['gsd_error'] = (queries.gsd_estimate / queries.gsd - 1).abs().median().item()
    return {name: round(value, 4) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('variants', nargs='*', metavar='VARIANT', help=f'of {", ".join(VARIANTS)}')
    parser.add_argument('--data', type=Path, required=True)
    parser.add_argument('--samples', type=int, default=100_000)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--runs', type=Path, default=Path('runs/recipe'))
    args = parser.parse_args()
    if unknown := [v for v in args.variants if v not in VARIANTS]:
        parser.error(f'no variant {unknown[0]!r}; there are {", ".join(VARIANTS)}')
    tiles = check_images(open_tiles(args.data))
    train, held = split_tiles(tiles, TRIAL.held_out, seed=0)
    lines = args.out.read_text().splitlines() if args.out.is_file() else []
    done = {(r['variant'], r['seed'], r['samples']) for r in map(json.loads, lines)}
    for seed in args.seeds:
        for name in args.variants or VARIANTS:
            if (name, seed, args.samples) in done:
                continue
            config = VARIANTS[name](RESULT if name.startswith('result') else TRIAL)
            config = replace(
                config,
                steps=args.samples // config.batch_size,
                seed=seed,
                out=args.runs / f'{re.sub("[ /]", "-", name)}-{args.samples}-{seed}',
                resume=True,
            )
            began = time.perf_counter()
            result = pretrain(config, tiles)
            minutes = (time.perf_counter() - began) / 60
            parameters = sum(p.numel() for p in result.model.parameters())
            row = dict(
                variant=name,
                seed=seed,
                samples=args.samples,
                **measure(result.model, train, held),
                dino=round(result.metrics[-1]['dino'], 3),
                gsd_mae=result.metrics[-1]['gsd_mae'],
                minutes=round(minutes, 1),
                parameters=parameters,
                threads=torch.get_num_threads(),
            )
            with args.out.open('a') as f:
                print(json.dumps(row), file=f)
            print(row, flush=True)


if __name__ == '__main__':
    main()
