"""Images a second and model FLOPs utilisation of pretraining on one GPU.

A plain loop of the same recipe stands beside ours. Takes under 8 minutes.

    python bench/gpu_pretrain.py          # ViT-S/16, then S/8 and B/16 as far as the time goes
    python bench/gpu_pretrain.py --models S/16 --profile
    python bench/gpu_pretrain.py --device cpu --tiny   # tries the script itself, anywhere

Utilisation is against the bf16 matrix product that this very card reaches (`peak`), and counts
the FLOPs of the method (student forward and backward, teacher forward, heads) by torch's own
counter on the plain network, so that work saved is not counted as done. Images are JPEG files of
256 pixels: the plain loop cuts its views in the loading processes, ours decodes there ("files")
or reads a decoded cache ("cache") and cuts views on the device; "views" repeats one batch of
ready views, which is the roof of any data path. `--out FILE` keeps the numbers as JSON.
"""

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import common
import torch
from ours import OurLoop
from plain import PlainLoop, PlainNetwork
from pretrain import write_scenes
from torch.utils.flop_counter import FlopCounterMode

from satdino_nb.data import FMOW, Tiles, cache_tiles
from satdino_nb.dino import DINOHead
from satdino_nb.pretrain import peak_memory, pretrain_preset, train_step
from satdino_nb.views import view_preset
from satdino_nb.vit import SatViT, vit_preset

MODELS = {
    'S/16': vit_preset('small'),
    'S/8': vit_preset('small', patch_size=8),
    'B/16': vit_preset('base'),
}


def matmul_peak(device, n):
    "FLOP/s of a bf16 product of n x n matrices."
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    wait = torch.cuda.synchronize if device.type == 'cuda' else lambda: None
    for _ in range(5):
        a @ b
    wait()
    start = time.perf_counter()
    for _ in range(30):
        a @ b
    wait()
    return 30 * 2 * n**3 / (time.perf_counter() - start)


def flops_of_an_image(c):
    """FLOPs of the method for one image.

    Student forward and backward on all views, teacher forward on the global ones.
    """
    with torch.device('meta'):
        make = lambda: PlainNetwork(
            SatViT(c.vit, FMOW),
            DINOHead(c.vit.embed_dim, c.out_dim, c.hidden_dim, c.bottleneck_dim),
        )
        student, teacher = make(), make().requires_grad_(False)
        v = c.views
        views = [torch.empty(2, 3, v.global_size, v.global_size)] * v.n_global + [
            torch.empty(2, 3, v.local_size, v.local_size)
        ] * v.n_local
        with FlopCounterMode(display=False) as count:
            out, _ = student(views)
            out.sum().backward()
            teacher(views[: v.n_global])
    return count.get_total_flops() / 2


class SameViews(OurLoop):
    "Our loop on one batch of ready views."

    def step(self):
        if not hasattr(self, 'views'):
            (step, (epoch, index)), batch = next(self.batches)
            self.views = self.source.finish(batch, self.device, step, epoch, index)[1]
        train_step(self.model, self.optimiser, [self.views], self.now, self.c, self.accelerator)


def images_per_second(loop, batch, seconds, device):
    "Of `loop.step()` over about `seconds`, after three steps to warm up."
    wait = torch.cuda.synchronize if device.type == 'cuda' else lambda: None
    for _ in range(3):
        loop.step()
    wait()
    start, n = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        loop.step()
        n += 1
    wait()
    return n * batch / (time.perf_counter() - start)


def measure(name, c, a, device, paths, tiles, folder, peak):
    "Rates of all arms for one model."
    flops = flops_of_an_image(c)
    ours, cached = Tiles(paths * 64, [0.5] * 64 * len(paths)), cache_tiles(tiles, folder)
    arms = {
        'plain bf16': lambda: PlainLoop(paths, 0.5, c, device, 'bf16'),
        'ours bf16, files': lambda: OurLoop(ours, c, device, timed=False),
        'ours bf16, cache': lambda: OurLoop(cached, c, device, timed=False),
        'ours bf16, views': lambda: SameViews(ours, c, device, timed=False),
    }
    if not a.no_compile:
        arms['ours bf16 compiled, cache'] = lambda: OurLoop(
            cached, replace(c, compile=True), device, timed=False
        )
        arms['ours bf16 compiled, views'] = lambda: SameViews(
            ours, replace(c, compile=True), device, timed=False
        )
    result = dict(gflop_per_image=flops / 1e9, batch=c.batch_size)
    for arm, make in arms.items():
        if time.perf_counter() - a.start > a.limit:
            print(f'  {arm}: left out, the time is up')
            continue
        if device.type == 'cuda':
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        loop = make()
        rate = images_per_second(loop, c.batch_size, a.seconds, device)
        result[arm] = dict(
            images_per_second=rate, mfu=rate * flops / peak, gib=peak_memory(device) / 2**30
        )
        plain = result.get('plain bf16', {}).get('images_per_second', float('nan'))
        print(
            f'  {arm:28} {rate:9.1f} images/s, {rate / plain:6.2f} x plain, '
            f'{100 * rate * flops / peak:5.1f} % of peak, {result[arm]["gib"]:.1f} GiB',
            flush=True,
        )
        del loop
    return result


def profile(c, device, tiles):
    "The kernels that take the most time in ten steps of ours."
    loop = SameViews(tiles, c, device, timed=False)
    for _ in range(3):
        loop.step()
    kind = torch.profiler.ProfilerActivity
    with torch.profiler.profile(
        activities=[kind.CPU] + ([kind.CUDA] if device.type == 'cuda' else [])
    ) as seen:
        for _ in range(10):
            loop.step()
    print(
        seen.key_averages().table(
            sort_by='self_cuda_time_total' if device.type == 'cuda' else 'self_cpu_time_total',
            row_limit=25,
            max_name_column_width=60,
        )
    )


def main():
    p = common.parser(__doc__)
    p.add_argument('--models', nargs='+', default=list(MODELS))
    p.add_argument('--device', default='cuda')
    p.add_argument('--batch', type=int, default=64)
    p.add_argument('--seconds', type=float, default=12)
    p.add_argument('--limit', type=float, default=420)
    p.add_argument('--tiny', action='store_true')
    p.add_argument('--no-compile', action='store_true')
    p.add_argument('--profile', action='store_true')
    p.add_argument('--out', type=Path)
    a = p.parse_args()
    a.start, device = time.perf_counter(), torch.device(a.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    peak = matmul_peak(device, 512 if a.tiny else 8192)
    hardware = torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'
    result = dict(
        hardware=hardware, torch=torch.__version__, cores=os.cpu_count(), peak_tflops=peak / 1e12
    )
    print(
        f'{hardware}, torch {torch.__version__}, {os.cpu_count()} cores: '
        f'bf16 matrix product {peak / 1e12:.1f} TFLOP/s'
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = write_scenes(folder, 4 if a.tiny else 16)
        tiles = Tiles([p for p in paths for _ in range(16)], [0.5] * 16 * len(paths))
        for name in a.models:
            if time.perf_counter() - a.start > a.limit:
                break
            c = pretrain_preset(
                'paper-s16',
                vit=MODELS[name],
                batch_size=a.batch,
                epochs=None,
                lr=1e-4,
                precision='bf16',
                workers=min(16, os.cpu_count()),
                cut_views='device',
                device='cpu' if device.type == 'cpu' else 'auto',
            )
            if a.tiny:
                c = replace(
                    c,
                    vit=vit_preset('micro', img_size=32, patch_size=8),
                    views=view_preset('tiny'),
                    batch_size=4,
                    out_dim=256,
                    hidden_dim=64,
                    bottleneck_dim=32,
                )
            print(f'ViT-{name}, batch {c.batch_size}')
            if a.profile:
                profile(c, device, tiles)
            else:
                result[name] = measure(
                    name, c, a, device, paths, tiles, Path(folder) / 'cache', peak
                )
    common.write_json(a.out, result, end='')


if __name__ == '__main__':
    main()
