"""What a model reaches: the numbers of its card, each with its 95 % interval, beside its opponents.

    python bench/given_split.py path/to/EuroSAT --gsd 10 --out split/eurosat
    python bench/given_split.py path/to/UCMerced --gsd 0.3048 --out split/ucmerced
    python bench/reach.py --model satdino-nano --splits split --out bench/results/satdino-nano

Neighbours, four scales with the scale of gallery and query crossed, linear probe, logistic
regression and few labels, on EuroSAT, UC Merced and the samples; then what the network costs. Each
set has a folder of its own in FILE's folder; one that has its `results.json` is passed over, so
the command can be given again. The GSD of scenes and of a building pyramid, and segmentation,
have scripts of their own (gsd_scenes.py, gsd_readout.py, segmentation.py).
"""

import json
import time
from pathlib import Path

import common
import torch
from torch.utils.flop_counter import FlopCounterMode

from satdino_nb.data import open_tiles, sample_tiles
from satdino_nb.evaluate import evaluate, open_model

PROTOCOLS = ('knn', 'scales', 'linear', 'logistic', 'few')


def splits(folder: Path) -> dict:
    "The samples' own split and every folder of train.csv and test.csv."
    found = {
        p.parent.name: (open_tiles(p), open_tiles(p.with_name('test.csv')))
        for p in sorted(folder.glob('*/train.csv'))
    }
    return {'samples': (sample_tiles('train'), sample_tiles('test'))} | found


def images_per_second(model, size: int, bf16: bool, images: int = 512) -> int:
    "Of one thread, features of pictures in memory, the best of three turns."
    x = torch.rand(images, 3, size, size)
    took = []
    for _ in range(3):
        start = time.perf_counter()
        with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16, enabled=bf16):
            for part in x.split(64):
                model(part)
        took.append(time.perf_counter() - start)
    return round(images / min(took))


def cost(model) -> dict:
    "Parameters, multiply-adds counted twice (GFLOP) of one image, and images a second."
    size = model.config.img_size
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        model(torch.rand(1, 3, size, size))
    return dict(
        parameters=sum(p.numel() for p in model.parameters()),
        size=size,
        gflop=round(counter.get_total_flops() / 1e9, 3),
        images_per_second_one_thread={
            'fp32': images_per_second(model, size, False),
            'bf16': images_per_second(model, size, True),
        },
        machine=common.cpu_info('model name'),
    )


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument('--model', required=True, help='what `evaluate --models` takes')
    parser.add_argument('--splits', type=Path, required=True, help='folder of train/test tables')
    parser.add_argument('--sets', nargs='*', help='of the samples and the splits; without: all')
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, (train, test) in splits(args.splits).items():
        out = args.out / name
        if (out / 'results.json').is_file() or (args.sets is not None and name not in args.sets):
            continue
        print(f'{name}: {len(train)} tiles to learn from, {len(test)} to judge', flush=True)
        report = evaluate({args.model: args.model}, train, test, PROTOCOLS, out)
        print((out / 'report.md').read_text(), report.problems or '', flush=True)
    found = cost(open_model(args.model).eval())
    (args.out / 'cost.json').write_text(json.dumps(found, indent=1) + '\n')
    print(found)


if __name__ == '__main__':
    main()
