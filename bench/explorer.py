"""Latency of the explorer in a real JupyterLab: from a key to the network's new input.

    python bench/explorer.py --out bench/results/explorer.json

opens a notebook with the explorer on a tile of 640 pixels, one of 4,000, and a GeoTIFF of 10,000,
each without and with the model that ships, and a bare `ipywidgets` slider whose value the kernel
writes into a label. In the same page a key on the frame and a key on the slider take turns; what is
timed is from the key's event to the change in the page. What counts is the ratio of both medians.
With `--beside CHECKOUT` the explorer of another checkout takes turns with this one, case by case.
Needs a browser (chromium) and playwright, as the tests of widgets do.
"""

import os
import statistics
import sys
import tempfile
from pathlib import Path

import common
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / 'tests'))
from browsing import browser_page, jupyterlab, open_notebook, write_notebook  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
CELL = """
import sys
sys.path.insert(0, {checkout!r})
import ipywidgets as w
import numpy as np
import torch
from satdino_nb.data import Tile, sample_tiles
from satdino_nb.explorer import Explorer
from satdino_nb.vit import load_satdino
slider = w.IntSlider(value=50, description='bare')
said = w.Label(value='said 50')
slider.observe(lambda change: setattr(said, 'value', f'said {{change.new}}'), 'value')
noise = np.random.default_rng(0).integers(0, 255, (3, 4000, 4000), np.uint8)
PLACES = {{
    '640 px': lambda: sample_tiles('place'),
    '4,000 px': lambda: {{'noise': Tile(torch.from_numpy(noise), 0.5)}},
    'GeoTIFF, 10,000 px': lambda: 'large.tif',
}}
model = load_satdino('satdino-nano') if {model} else None
explorer = Explorer(PLACES[{place!r}](), model, out=64)
w.VBox([slider, said])
"""
PLACES = ('640 px', '4,000 px', 'GeoTIFF, 10,000 px')
SHUT = (
    '() => window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.shutdown()'
)
WATCH = """() => {
  const root = document.querySelector('.satdino-x');
  const label = [...document.querySelectorAll('.widget-label')]
    .find((e) => e.textContent.startsWith('said'));
  window.began = window.shown = window.said = null;
  document.addEventListener('keydown', () => { window.began = performance.now(); }, true);
  new MutationObserver(() => { window.shown = performance.now(); })
    .observe(root, { attributes: true, attributeFilter: ['data-shown'] });
  new MutationObserver(() => { window.said = performance.now(); })
    .observe(label, { childList: true, characterData: true, subtree: true });
}"""


def large_raster(path: Path, side: int = 10_000) -> None:
    "A tiled GeoTIFF of noise at 0.5 m, with overviews."
    import rasterio
    from rasterio.transform import from_origin

    block = np.random.default_rng(0).integers(0, 255, (3, 1000, 1000), np.uint8)
    form = dict(driver='GTiff', width=side, height=side, count=3, dtype='uint8', crs='EPSG:32632')
    place = from_origin(5e5, 5e6, 0.5, 0.5)
    with rasterio.open(path, 'w', **form, transform=place, tiled=True) as f:
        for i in range(0, side, 1000):
            for j in range(0, side, 1000):
                f.write(block, window=rasterio.windows.Window(j, i, 1000, 1000))
    with rasterio.open(path, 'r+') as f:
        f.build_overviews([2, 4, 8, 16], rasterio.enums.Resampling.average)


def waited(page, name: str, press) -> float:
    "Milliseconds from the key that `press` sends to the change that sets `window[name]`."
    page.evaluate(f'() => {{ window.{name} = null; }}')
    press()
    page.wait_for_function(f'() => window.{name} !== null')
    return page.evaluate(f'() => window.{name} - window.began')


def latencies(page, rounds: int) -> tuple[list[float], list[float]]:
    "Milliseconds of the explorer's input and of the bare slider's label, taking turns."
    frame = page.get_by_role('application', name='crop frame')
    handle = page.locator('.noUi-handle').first
    page.evaluate(WATCH)
    ours, bare = [], []
    for i in range(rounds):
        key = 'ArrowRight' if i % 2 else 'ArrowDown'
        frame.focus()
        ours.append(waited(page, 'shown', lambda: page.keyboard.press(key)))
        page.wait_for_timeout(300)  # the model answers after the input
        handle.focus()
        bare.append(waited(page, 'said', lambda: page.keyboard.press('ArrowRight')))
        page.wait_for_timeout(100)
    return ours[3:], bare[3:]


def summary(place: str, model: bool, code: str, ours: list, bare: list) -> dict:
    "One case as a row: medians, and their ratio."
    row = dict(place=place, model=model, code=code, rounds=len(ours))
    row |= dict(input_ms=statistics.median(ours), bare_ms=statistics.median(bare))
    return row | dict(ratio=row['input_ms'] / row['bare_ms'])


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument('--rounds', type=int, default=23)
    parser.add_argument('--beside', type=Path, help='another checkout, which takes turns')
    parser.add_argument('--turns', type=int, default=1, help='of each case and checkout')
    parser.add_argument('--places', nargs='+', default=PLACES, choices=PLACES)
    parser.add_argument('--out', type=Path)
    args = parser.parse_args()
    codes = {'this': ROOT} | ({'beside': args.beside.resolve()} if args.beside else {})
    cases = [(p, m, c) for p in args.places for m in (False, True) for c in codes]
    times: dict[tuple, tuple[list, list]] = {case: ([], []) for case in cases}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / 'work').mkdir()
        large_raster(folder / 'work' / 'large.tif')
        for i, (place, model, code) in enumerate(cases):
            text = CELL.format(place=place, model=model, checkout=str(codes[code]))
            cells = [text, 'explorer']
            write_notebook(folder / 'work' / f'{i}.ipynb', cells)
        with jupyterlab(folder) as address:
            for i, case in list(enumerate(cases)) * args.turns:
                with browser_page(width=1300, height=1100) as (page, _, _):
                    open_notebook(page, address(f'{i}.ipynb'))
                    page.locator('.satdino-x[data-shown]').first.wait_for()
                    page.locator('.noUi-handle').first.wait_for()
                    page.wait_for_timeout(2000)
                    ours, bare = latencies(page, args.rounds)
                    page.evaluate(SHUT)
                for kept, more in zip(times[case], (ours, bare)):
                    kept.extend(more)
                print(case, statistics.median(ours), statistics.median(bare), flush=True)
    results = [summary(*case, *times[case]) for case in cases]
    busy = os.getloadavg()[1]
    common.write_json(args.out, dict(machine=common.processor(), load=busy, cases=results))


if __name__ == '__main__':
    main()
