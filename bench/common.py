"""What the benchmarks share.

Their command line, the machine's description, drawn pictures, medians by turns, and results as
JSON.
"""

import argparse
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from satdino_nb.scenes import scene

LAND_USES = (
    'residential',
    'cropland',
    'harbour',
    'industrial',
    'river',
    'forest',
    'airport',
    'sports',
)


def parser(doc: str) -> argparse.ArgumentParser:
    "A command line whose help begins with the script's docstring as it stands."
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def write_json(
    out: Path | str | None, result: dict, indent: int | None = 1, end: str = '\n'
) -> None:
    "`result` as JSON in the file `out`, if one was asked for (`--out`)."
    if out:
        Path(out).write_text(json.dumps(result, indent=indent) + end)


def as_list(estimate) -> list[float]:
    "Value and ends of the interval of an `Estimate`, for JSON."
    return [round(float(v), 4) for v in (estimate.value, estimate.low, estimate.high)]


def gap_name(one: str, reference: str) -> str:
    "What a paired difference is called: 'GSD token, difference to image statistics'."
    return f'{one}, difference to {reference}'


def processor() -> str:
    "The processor's architecture or name as Python tells it."
    return platform.processor() or platform.machine()


def cpu_info(field: str) -> str | None:
    """The first `field` of Linux's description of the processors, or None.

    `field` is a name such as 'model name' or 'flags'; None where there is none.
    """
    info = Path('/proc/cpuinfo')
    found = re.search(rf'^{field}\s*: (.*)', info.read_text(), re.M) if info.exists() else None
    return found and found[1].strip()


def machine_line(threads: str = '', device: str = 'cpu') -> str:
    """The machine in words.

    Number and kind of CPUs, `threads` in words, torch's version, and the GPU's name if `device`
    is 'cuda'.
    """
    parts = [f'{os.cpu_count()} CPUs {platform.machine()}', threads, f'torch {torch.__version__}']
    if device == 'cuda':
        parts.append(torch.cuda.get_device_name())
    return ', '.join(filter(None, parts))


def pictures(n: int, size: int) -> list[torch.Tensor]:
    "`n` drawn scenes of `size` pixels at 0.5 m per pixel, uint8 `(3, size, size)`."
    return [scene(LAND_USES[k % len(LAND_USES)], 77 + k, 0.5, size).image for k in range(n)]


def to_pillow(image: torch.Tensor) -> Image.Image:
    "A uint8 `(3, H, W)` picture for Pillow."
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def save_jpegs(images: list[torch.Tensor], folder: Path | str) -> list[Path]:
    "Write `images` to `folder` as 0.jpg, 1.jpg, ... of quality 90; their paths."
    paths = [Path(folder) / f'{k}.jpg' for k in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        to_pillow(image).save(path, quality=90)
    return paths


def timed(method: Callable) -> tuple[float, float]:
    "Seconds by the clock and of processor time of one call."
    start, cpu = time.perf_counter(), time.process_time()
    method()
    return time.perf_counter() - start, time.process_time() - cpu


def alternate(
    methods: dict[str, Callable], rounds: int, rotate: bool = False
) -> dict[str, list[tuple[float, float]]]:
    """Seconds `(by the clock, of processor time)` of each method in each round, by turns.

    A round before the first warms up.

    `rotate`: who begins changes from round to round.
    """
    seconds, names = {name: [] for name in methods}, list(methods)
    for r in range(rounds + 1):
        first = r % len(names) if rotate else 0
        for name in names[first:] + names[:first]:
            spent = timed(methods[name])
            if r:
                seconds[name].append(spent)
    return seconds


def ratios(first: list[float], other: list[float]) -> list[float]:
    "How many times as fast as `first` the `other` was, round by round."
    return [a / b for a, b in zip(first, other, strict=True)]


def median_ratio(first: list[float], other: list[float]) -> float:
    "The median of `ratios`."
    return statistics.median(ratios(first, other))
