"""The explorer's sliders in JupyterLab and a browser, as they are without anywidget.

Pictures are square, a key moves the crop, the numbers are right, nothing leaves the machine.
"""

import pytest
from browsing import (
    IN_A_BROWSER,
    browser_page,
    needs,
    open_notebook,
    screenshot,
    widget_errors,
    write_notebook,
)

needs('ipywidgets')
pytestmark = IN_A_BROWSER

GSD, SIDE, OUT = 0.5, 200, 64  # metres per pixel; pixels of the crop and of the network's input
CELL = f"""
import torch
from satdino_nb.data import Tile
from satdino_nb.explorer import Explorer
y, x = torch.meshgrid(torch.arange(500), torch.arange(600), indexing='ij')
image = torch.stack([40 + 120*((x//40 + y//40) % 2), y//2, x//3]).byte()
explorer = Explorer({{'field': Tile(image, {GSD})}}, out={OUT}, face='sliders')
explorer
"""


@pytest.fixture
def lab(lab_server):
    "Address of a JupyterLab that serves a notebook with the explorer in it."
    folder, address = lab_server
    write_notebook(folder / 'work' / 'sliders.ipynb', [CELL])
    return address('sliders.ipynb')


def pictures(page):
    "Natural and shown size, and address, of the overview and the view."
    script = """els => els.map(e => { const b = e.getBoundingClientRect();
                return {natural: [e.naturalWidth, e.naturalHeight],
                        shown: [b.width, b.height], src: e.src} })"""
    return page.locator('img.widget-image').evaluate_all(script)[:2]


def test_explorer_in_jupyterlab(lab):
    with browser_page(width=1280, height=1100) as (page, console, elsewhere):
        open_notebook(page, lab)
        caption = page.locator('.widget-html-content', has_text='footprint')
        failed = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
        caption.or_(failed).first.wait_for()
        assert not failed.count(), failed.first.inner_text()
        page.wait_for_function(
            "() => [...document.querySelectorAll('img.widget-image')]"
            '.filter(e => e.naturalWidth > 0).length >= 3'
        )

        assert (
            caption.inner_text()
            == '200 x 200 px -> 64 x 64 px · effective GSD 1.56 m/px · footprint 100 m x 100 m'
        )
        overview, view = before = pictures(page)
        assert overview['natural'] == [448, 373] and view['natural'] == [
            448,
            448,
        ]  # 500 x 600 shrunk; 64 px seven times
        for picture in before:
            assert picture['shown'] == pytest.approx(picture['natural'], abs=0.5), (
                'pictures must not be stretched'
            )

        handle = page.locator('.widget-slider', has_text='Height').locator('.noUi-handle')
        handle.focus()
        for _ in range(8):
            page.keyboard.press('ArrowRight')
        page.wait_for_function(
            "() => [...document.querySelectorAll('.widget-html-content')]"
            ".some(e => e.innerText.startsWith('208 x 208 px'))",
        )
        assert caption.inner_text() == (
            f'208 x 208 px -> 64 x 64 px · effective GSD {208 * GSD / OUT:.3g} m/px '
            '· footprint 104 m x 104 m'
        )
        page.wait_for_function(
            "old => document.querySelectorAll('img.widget-image')[1].src !== old", arg=view['src']
        )
        after = pictures(page)
        assert all(a['src'] != b['src'] and a['shown'] == b['shown'] for a, b in zip(before, after))

        page.get_by_role('button', name='uniform').click()
        page.wait_for_function(
            "old => document.querySelectorAll('img.widget-image')[0].src !== old",
            arg=after[0]['src'],
        )
        screenshot(page, 'explorer')
    assert not elsewhere
    assert not widget_errors(console), console
