"""Which canvas for the map: its own, or jupyter-scatter? Frames a second, and their cost.

    SATDINO_BROWSER_SECONDS=600 python bench/map_trial.py 2000 10000 100000

In a JupyterLab of its own (tests/browsing.py) each widget is drawn, then dragged, zoomed and
hovered over, sixty steps each. Counted are frames: the median time between two of the page's (60 a
second are the most that a page draws), and the processor time of all of the browser's processes for
a step, which a busy machine changes less; beside them stand the milliseconds from running the cell
to the first frame. jupyter-scatter is measured where it is installed.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / 'tests'))
from browsing import browser_page, jupyterlab, open_notebook, screenshot, write_notebook  # noqa: E402

STEPS = 60
FIRST = """
import numpy as np
import torch
from satdino_nb.engine.layouts import Map
from satdino_nb.engine.map_widget import MapWidget
from satdino_nb.engine.tiles import sample_tiles
few = sample_tiles('test')
def cloud(n):
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 15, n)
    return (rng.normal(size=(15, 2)) * 3)[kind] + rng.normal(size=(n, 2)) * 0.6, kind
"""
OWN = """
xy, kind = cloud({n})
own = MapWidget(Map(xy, 'trial'), few.subset(kind * 6), torch.tensor(xy))
own.view
"""
OTHER = """
import jscatter, pandas
xy, kind = cloud({n})
frame = pandas.DataFrame(dict(x=xy[:, 0], y=xy[:, 1], kind=pandas.Categorical(kind.astype(str))))
jscatter.Scatter(data=frame, x='x', y='y', color_by='kind', height=480, tooltip=True).show()
"""


def browser_seconds():
    "Processor time of this process's browsers, seconds."
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if 'chrom' in process.name():
                total += sum(process.cpu_times()[:2])
        except psutil.Error:
            pass
    return total


def drawn(page, k):
    "The place of the canvas that cell `k` shows, once it is there."
    cell = page.locator('.jp-CodeCell').nth(k)
    canvases = cell.locator('.jp-OutputArea canvas')
    canvases.first.wait_for()
    page.wait_for_timeout(500)
    widths = canvases.evaluate_all('all => all.map(c => c.getBoundingClientRect().width)')
    canvas = canvases.nth(widths.index(max(widths)))
    canvas.scroll_into_view_if_needed()
    page.evaluate('() => new Promise(f => requestAnimationFrame(() => requestAnimationFrame(f)))')
    return canvas.bounding_box()


WATCH = """() => { const seen = window.frameTimes = [];
const note = (t) => { if (window.frameTimes !== seen) return;
seen.push(t); requestAnimationFrame(note); };
requestAnimationFrame(note); }"""
GAPS = """() => { const t = window.frameTimes; window.frameTimes = null;
return t.slice(1).map((v, k) => v - t[k]); }"""


def cost(page, step):
    "Frames a second (median), and milliseconds of processor time, for a step of `STEPS`."
    page.evaluate(WATCH)
    before = browser_seconds()
    for k in range(STEPS):
        step(k)
        page.evaluate('() => new Promise(requestAnimationFrame)')
    spent = 1000 * (browser_seconds() - before) / STEPS
    return 1000 / statistics.median(page.evaluate(GAPS)), spent


def run_cell(page, k):
    "Run cell `k`."
    page.evaluate(
        """k => { const app = window.jupyterapp;
        app.shell.currentWidget.content.activeCellIndex = k;
        app.commands.execute('notebook:run-cell'); }""",
        k,
    )


def measure(page, k):
    "First frame of cell `k` and the cost of each gesture."
    began = time.perf_counter()
    run_cell(page, k)
    box = drawn(page, k)
    first = 1000 * (time.perf_counter() - began)
    page.wait_for_timeout(2000)
    x, y = box['x'] + box['width'] / 2, box['y'] + box['height'] / 2
    idle = cost(page, lambda k: None)
    page.mouse.click(x, y)
    hover = cost(page, lambda k: page.mouse.move(x - 150 + 5 * k, y - 60 + (k * 17) % 120))
    page.mouse.move(x, y)
    wheel = cost(page, lambda k: page.mouse.wheel(0, -40 if k < STEPS // 2 else 40))
    page.mouse.down()
    drag = cost(page, lambda k: page.mouse.move(x + 2 * k, y + k))
    page.mouse.up()
    return dict(first=first, idle=idle, hover=hover, wheel=wheel, drag=drag)


def main(sizes):
    kinds = {'own canvas': OWN}
    try:
        import jscatter  # noqa: F401

        kinds['jupyter-scatter'] = OTHER
    except ImportError:
        print('jupyter-scatter is not installed')
    todo = [(name, n, text.format(n=n)) for name, text in kinds.items() for n in sizes]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / 'work'
        work.mkdir()
        write_notebook(work / 'trial.ipynb', [FIRST, *(text for *_, text in todo)])
        with jupyterlab(Path(folder)) as address, browser_page(width=1200, height=900) as found:
            page, _, elsewhere = found
            open_notebook(page, address('trial.ipynb'), run=False)
            run_cell(page, 0)
            page.wait_for_timeout(1000)
            print('frames a second / ms of processor time a step')
            print('| widget | points | first frame, ms | idle | hover | wheel | drag |')
            print('|---|---|---|---|---|---|---|')
            for k, (name, n, _) in enumerate(todo, 1):
                found = measure(page, k)
                first = found.pop('first')
                steps = (f'{fps:.0f} / {ms:.0f} |' for fps, ms in found.values())
                print(f'| {name} | {n:,} | {first:.0f} |', *steps, flush=True)
                screenshot(page, f'trial_{name.split()[0]}_{n}')
            print('requests elsewhere:', len(elsewhere))


if __name__ == '__main__':
    main([int(n) for n in sys.argv[1:]] or [2000, 10_000, 100_000])
