"""Images a second from picture to views, side by side with what one would otherwise run.

    python bench/views.py                     # one image at a time, one thread
    python bench/views.py --loader            # JPEG files through a DataLoader with two workers
    python bench/views.py --device cuda       # and the batched views on a GPU
    python bench/views.py --profile           # where `MultiCrop.one` spends its time

The methods take turns within one run and the median of the rounds is reported, with its ratio to
the plain pipeline (torchvision's transforms on Pillow pictures, the recipe of the released code).
`--out FILE` keeps the table as JSON.
"""

import multiprocessing
import resource
import statistics
import sys
import tempfile
from pathlib import Path

import common
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as TF

from satdino_nb.data import FMOW, Tiles, cache_tiles, collate, for_views
from satdino_nb.views import MultiCrop, ViewConfig, plain_views

CONFIG = ViewConfig()


def pictures(size, n):
    "`n` drawn scenes of `size` pixels, as uint8 (3, size, size) laid out as a decoder leaves them."
    return [i.permute(1, 2, 0).contiguous().permute(2, 0, 1) for i in common.pictures(n, size)]


def plain(image):
    """Pillow pictures through torchvision's transforms to normalised tensors.

    The recipe is that of the released code.
    """
    return [
        TF.normalize(TF.to_tensor(view), FMOW.mean, FMOW.std)
        for view, _ in plain_views(common.to_pillow(image), CONFIG)
    ]


def lightly():
    """lightly's DINO transform, or None where it is not installed.

    With the same sizes, scales and numbers of views.
    """
    try:
        from lightly.transforms import DINOTransform
    except ImportError:
        return None
    transform = DINOTransform(
        global_crop_size=224,
        global_crop_scale=CONFIG.global_scale,
        local_crop_size=96,
        local_crop_scale=CONFIG.local_scale,
        n_local_views=10,
        cj_strength=1.0,
        cj_bright=CONFIG.brightness,
        cj_contrast=CONFIG.contrast,
        cj_sat=CONFIG.saturation,
        cj_hue=CONFIG.hue,
    )
    return lambda image: transform(common.to_pillow(image))


def peak_memory(method):
    "MiB by which a fresh child process grows while it runs `method`."

    def child(pipe):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        method()
        pipe.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)

    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context('fork').Process(target=child, args=(theirs,))
    process.start()
    mib = ours.recv()
    process.join()
    return mib


def table(title, rates, extra=None):
    "Print images/s, the ratio to the first row, and further columns."
    first = next(iter(rates.values()))
    print(
        f'\n{title}\n| | images/s | ratio |{" peak MiB |" if extra else ""}\n'
        f'|---|---|---|{"---|" if extra else ""}'
    )
    for name, rate in rates.items():
        print(
            f'| {name} | {rate:.0f} | {rate / first:.1f} |'
            + (f' {extra[name]:.0f} |' if extra else '')
        )
    return {
        name: dict(
            images_per_second=round(rate, 1),
            ratio=round(rate / first, 2),
            **({'peak_mib': round(extra[name], 1)} if extra else {}),
        )
        for name, rate in rates.items()
    }


def one_thread(args):
    "Views of decoded pictures, one after another on one thread."
    import cv2

    torch.set_num_threads(1), cv2.setNumThreads(1)
    out, crop = {}, MultiCrop(CONFIG)
    for size in args.sizes:
        images = pictures(size, args.n)
        each = {
            'plain (torchvision on Pillow)': plain,
            'lightly DINOTransform': lightly(),
            'satdino_nb, one image': lambda i: crop.one(i, 0.5, 0, 1),
        }
        methods = {name: (lambda f=f: [f(i) for i in images]) for name, f in each.items() if f}
        methods['satdino_nb, batched on the CPU'] = lambda: crop(torch.stack(images[:4]))
        counts = dict.fromkeys(methods, len(images)) | {'satdino_nb, batched on the CPU': 4}
        memory = {name: peak_memory(m) for name, m in methods.items()}
        if args.device != 'cpu':
            batch = torch.stack((images * 64)[:64]).to(args.device)
            methods[f'satdino_nb, batched on {args.device}'] = lambda: (
                crop(batch),
                torch.cuda.synchronize(),
            )
            (
                counts[f'satdino_nb, batched on {args.device}'],
                memory[f'satdino_nb, batched on {args.device}'],
            ) = 64, float('nan')
        seconds = common.alternate(methods, args.rounds)
        rates = {
            name: counts[name] / statistics.median(wall for wall, _ in s)
            for name, s in seconds.items()
        }
        out[f'{size} px'] = table(
            f'{size} px sources, 2 x 224 + 10 x 96, one thread, '
            f'{args.rounds} rounds of {len(images)}',
            rates,
            memory,
        )
        raw, written = 3 * size**2 / 1e6, sum(c * 3 * s**2 for c, s in ((2, 224), (10, 96))) / 1e6
        print(
            f'floor: {raw:.2f} MB read, {written:.2f} MB written an image as uint8 '
            f'({4 * written:.2f} as float)'
        )
    return out


class Views(Dataset):
    "JPEG files to views in the worker process."

    def __init__(self, tiles, cut):
        self.tiles, self.cut = tiles, cut

    def __len__(self):
        return len(self.tiles)

    def __getitem__(self, i):
        return self.cut(self.tiles[i].image)


def host(image):
    return [v.images[:, 0] for v in MultiCrop(CONFIG).one(image)]


def stacked(samples):
    return [torch.stack(v) for v in zip(*samples)]


def loader(args):
    """JPEG files through a DataLoader with two workers.

    Views are cut there, or only the decoded picture comes (views on the device).
    """
    out = {}
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            paths = common.save_jpegs(pictures(size, 8) * max(1, args.n), folder)
            tiles = Tiles(paths, [0.5] * len(paths))
            cached = cache_tiles(tiles, Path(folder) / 'cache')
            sets = {
                'plain views in the workers': Views(tiles, plain),
                'satdino_nb views in the workers': Views(tiles, host),
                'decode only (views on the device)': tiles,
                'reduced decode only': for_views(tiles, CONFIG.ranges()),
                'decoded cache only': cached,
            }
            batches = {
                name: DataLoader(
                    s,
                    64,
                    num_workers=2,
                    collate_fn=stacked if isinstance(s, Views) else collate,
                    persistent_workers=True,
                )
                for name, s in sets.items()
            }
            seconds = common.alternate(
                {name: (lambda b=b: [None for _ in b]) for name, b in batches.items()}, args.rounds
            )
            out[f'{size} px'] = table(
                f'{len(tiles)} JPEGs of {size} px, two workers, batch 64',
                {
                    name: len(tiles) / statistics.median(wall for wall, _ in s)
                    for name, s in seconds.items()
                },
            )
    return out


def profile(args):
    """Milliseconds of the functions that `MultiCrop.one` spends most in.

    One image of each size, one thread.
    """
    import cProfile
    import pstats

    import cv2

    torch.set_num_threads(1), cv2.setNumThreads(1)
    crop = MultiCrop(CONFIG)
    for size in args.sizes:
        image, n, watch = pictures(size, 1)[0], 300, cProfile.Profile()
        for i in range(n):
            if i == n // 3:
                watch.enable()  # the first third warms up
            crop.one(image, 0.5, 0, i)
        watch.disable()
        stats = pstats.Stats(watch)
        print(
            f'\n{size} px: {1e3 * stats.total_tt / (n - n // 3):.2f} ms an image under the profiler'
        )
        for (_, _, name), (_, _, own, _, _) in sorted(
            stats.stats.items(), key=lambda row: -row[1][2]
        )[:6]:
            print(f'  {own / stats.total_tt:4.0%} {name}')


def main():
    parser = common.parser(__doc__)
    parser.add_argument('--sizes', type=int, nargs='+', default=[256, 512])
    parser.add_argument(
        '--n', type=int, default=16, help='pictures in a round (the loader: 8 times as many)'
    )
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--loader', action='store_true')
    parser.add_argument('--profile', action='store_true')
    parser.add_argument('--out', type=Path)
    args = parser.parse_args()
    machine = common.machine_line(device=args.device)
    print(machine)
    if args.profile:
        return profile(args)
    result = loader(args) if args.loader else one_thread(args)
    command = ' '.join(['python bench/views.py', *sys.argv[1:]])
    common.write_json(args.out, dict(machine=machine, command=command, results=result))


if __name__ == '__main__':
    main()
