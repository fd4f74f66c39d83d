"""The map to walk about in, in JupyterLab and a browser: one test for each gesture.

What is asserted is state: which tile the page says is under the pointer, and what the kernel has
been told. Twelve tiles lie on a grid of four columns and three rows, tile 0 below on the left.
"""

import json
import re
import subprocess
import sys

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

needs('anywidget')
pytestmark = IN_A_BROWSER

CELL = """
import ipywidgets
import numpy as np
import torch
from satdino_nb.engine.layouts import Map
from satdino_nb.engine.map_widget import MapWidget
from satdino_nb.engine.tiles import sample_tiles
tiles = sample_tiles('test').subset(range(0, 84, 7))
tiles.classes = ['<img src=x onerror=alert(1)>', *tiles.classes[1:]]
xy = np.array([[i % 4, i // 4] for i in range(12)], float)
the_map = MapWidget(Map(xy, 'a grid'), tiles, torch.eye(12) + torch.ones(12, 12).tril(), k=3)
told = ipywidgets.Label()
linked = []
the_map.link(lambda i, tile: linked.append(i))
def tell(_=None):
    s = the_map.state
    told.value = f'kernel: {s.chosen} {list(s.selected)} {s.colour} {linked[-1:]}'
the_map.state.observe(tell)
tell()
display(told)
the_map
"""


@pytest.fixture(scope='module')
def lab(lab_server):
    "A page with the map, its console, what it asked elsewhere, its folder and addresses."
    folder, address = lab_server
    write_notebook(folder / 'work' / 'map.ipynb', [CELL])
    with browser_page(width=1200, height=900) as found:
        page, console, elsewhere = found
        open_notebook(page, address('map.ipynb'))
        root = page.locator('.satdino-map')
        failed = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
        root.or_(failed).first.wait_for()
        assert not failed.count(), failed.first.inner_text()
        page.wait_for_function("() => document.querySelector('.satdino-map').dataset.frames > 0")
        yield page, console, elsewhere, folder, address


@pytest.fixture
def page(lab):
    "The page, with nothing chosen or selected and the whole map in sight."
    page = lab[0]
    page.get_by_role('button', name='clear the selection').click()
    page.get_by_role('button', name='show the whole map').click()
    page.mouse.move(5, 5)
    said(page, 'None [] ')
    page.locator('.satdino-map-stage').scroll_into_view_if_needed()
    return page


def data(page):
    "What the page says of itself."
    return page.locator('.satdino-map').evaluate('e => ({...e.dataset})')


def until(page, name, value):
    "Wait until the page says so."
    script = "([k, v]) => document.querySelector('.satdino-map').dataset[k] === v"
    page.wait_for_function(script, arg=[name, str(value)])


def said(page, words):
    "Wait until the kernel has said so."
    page.get_by_text(f'kernel: {words}').wait_for()


def view(page):
    return [float(v) for v in data(page)['view'].split()]


def place(page, i):
    "Where tile `i` of the grid is on the page, in pixels, by the view that the page states."
    box = page.locator('.satdino-map-stage canvas').last.bounding_box()
    x, y, scale = view(page)
    at = ((i % 4) / 3, (i // 4 - 1) / 3 + 0.5)
    return (
        box['x'] + box['width'] / 2 + (at[0] - x) * scale,
        box['y'] + box['height'] / 2 - (at[1] - y) * scale,
    )


def test_hover_shows_the_picture_with_words(page):
    page.mouse.move(*place(page, 6))
    until(page, 'shown', 6)
    tip = page.locator('.satdino-map-tip')
    assert re.search(r'tile 6: .+, [\d.]+ m/px, .+', tip.inner_text())
    page.wait_for_function(
        "() => document.querySelector('.satdino-map-tip img').naturalWidth >= 64"
    )
    screenshot(page, 'map_hover')
    page.mouse.move(5, 5)
    until(page, 'hover', -1)
    assert not tip.is_visible()
    said(page, 'None []')  # looking changes nothing


def test_the_last_of_many_tiles_is_shown(page):
    for i in (0, 1, 2, 3, 7, 11, 10, 9):
        page.mouse.move(*place(page, i))
    until(page, 'shown', 9)
    assert 'tile 9:' in page.locator('.satdino-map-tip').inner_text()


def test_click_rings_and_lists_the_neighbours(page):
    page.mouse.click(*place(page, 5))
    said(page, '5 [] class [5]')  # the kernel, and whoever is linked
    page.wait_for_function("() => document.querySelector('.satdino-map').dataset.near !== ''")
    near = data(page)['near'].split()
    rows = page.get_by_role('group', name='neighbours').locator('li')
    assert len(near) == 3 and near[0] == '6'  # rows of this matrix are nearest to their next
    assert re.search(r'[\d.]+ away, tile 6: .+ m/px', rows.first.inner_text())
    screenshot(page, 'map_click')
    rows.first.get_by_role('button').click()  # and on to it
    said(page, '6 [] class [6]')


def test_lasso_selects_rows(page):
    (x0, y0), (x1, y1) = place(page, 1), place(page, 6)
    page.keyboard.down('Shift')
    page.mouse.move(x0 - 30, y0 + 30)
    page.mouse.down()
    for corner in ((x1 + 30, y0 + 30), (x1 + 30, y1 - 30), (x0 - 30, y1 - 30)):
        page.mouse.move(*corner, steps=6)
    screenshot(page, 'map_lasso')
    page.mouse.up()
    page.keyboard.up('Shift')
    said(page, 'None [1, 2, 5, 6] class')
    until(page, 'selected', 4)
    code = page.get_by_role('textbox', name='selection as code')
    assert code.input_value() == 'tiles.subset([1, 2, 5, 6])'
    page.get_by_role('button', name='Save index').click()
    page.get_by_text('Saved 4 tiles as selected').wait_for()


def test_wheel_zooms_about_the_pointer_once_the_map_is_clicked(page):
    here = place(page, 10)
    page.locator('.satdino-map select').focus()  # the map has no focus: the page scrolls
    before = view(page)
    page.mouse.move(*here)
    until(page, 'shown', 10)
    page.mouse.wheel(0, -40)
    page.get_by_text('Click the map, or hold Ctrl').wait_for()
    assert view(page) == before
    page.locator('.satdino-map-stage').scroll_into_view_if_needed()
    here = place(page, 10)
    page.mouse.click(*here)
    page.mouse.wheel(0, -200)
    page.wait_for_function(
        "s => +document.querySelector('.satdino-map').dataset.view.split(' ')[2] > s * 1.3",
        arg=before[2],
    )
    assert place(page, 10) == pytest.approx(here, abs=1)  # what lay under the pointer still does


def test_drag_pans(page):
    x, y = place(page, 5)
    scale = view(page)[2]
    page.mouse.move(x + 40, y + 40)
    page.mouse.down()
    page.mouse.move(x + 100, y + 10, steps=5)
    page.mouse.up()
    assert place(page, 5) == pytest.approx((x + 60, y - 30), abs=1)
    assert view(page)[2] == scale
    said(page, 'None []')  # a drag chooses nothing


def test_keys_walk_choose_select_and_zoom(page):
    page.locator('.satdino-map-stage canvas').last.focus()
    page.mouse.move(*place(page, 4))
    until(page, 'hover', 4)
    page.keyboard.press('ArrowRight')
    until(page, 'hover', 5)
    page.keyboard.press('ArrowUp')
    until(page, 'hover', 9)
    page.keyboard.press('Enter')
    said(page, '9 [] class [9]')
    page.keyboard.press('Space')
    said(page, '9 [9] class')
    scale = view(page)[2]
    page.keyboard.press('+')
    assert view(page)[2] == pytest.approx(1.25 * scale, rel=1e-4)
    x = view(page)[0]
    page.keyboard.press('Shift+ArrowRight')
    assert view(page)[0] > x
    page.keyboard.press('0')
    assert view(page) == pytest.approx([0.5, 0.5, scale], rel=1e-4)
    page.keyboard.press('Escape')
    said(page, 'None [] class')


def test_letters_on_its_controls_are_no_commands_of_the_notebook(page):
    cells = 'window.jupyterapp.shell.currentWidget.content.widgets.map((w) => w.model.type)'
    before = page.evaluate(cells)
    for control in (
        page.get_by_role('button', name='show the whole map'),
        page.locator('.satdino-map-stage canvas').last,
    ):
        for key in ('b', 'm'):  # adds a cell, makes one text
            control.focus()
            page.keyboard.press(key)
            assert control.evaluate('e => e === document.activeElement'), key
    assert page.evaluate(cells) == before


def test_colours_have_labels_and_names_are_text(page):
    menu = page.get_by_role('combobox', name='colour by')
    legend = page.get_by_role('group', name='legend')
    assert '<img src=x onerror=alert(1)>' in legend.inner_text()
    assert not legend.locator('img').count()
    menu.select_option('GSD')
    said(page, 'None [] GSD')
    page.wait_for_function(
        "() => document.querySelectorAll('.satdino-map [aria-label=legend] button').length === 4"
    )
    menu.select_option('class')
    said(page, 'None [] class')


def test_the_page_is_named_for_readers_of_screens(page):
    canvas = page.locator('.satdino-map-stage canvas').last
    assert canvas.get_attribute('aria-label').startswith('map of 12 tiles. Drag to pan')
    assert page.locator('.satdino-map [aria-live=polite]').count() == 1
    for button in page.locator('.satdino-map button').all():
        assert button.get_attribute('aria-label') or button.inner_text()


def test_saved_and_reopened_it_shows_a_picture(page, lab):
    *_, folder, address = lab
    stills = page.locator('.jp-RenderedImage img')
    assert stills.count() == 1
    stills.first.wait_for(state='hidden')  # while the widget lives
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    saved = folder / 'work' / 'map.ipynb'
    for _ in range(100):
        outputs = json.loads(saved.read_text())['cells'][0]['outputs']
        if outputs:
            break
        page.wait_for_timeout(100)
    assert any('image/jpeg' in o.get('data', {}) for o in outputs)
    (folder / 'work' / 'old.ipynb').write_text(saved.read_text())  # as on another machine
    script = [sys.executable, '-m', 'jupyter', 'nbconvert', '--to', 'html', '--stdout', saved]
    html = subprocess.run(script, capture_output=True, text=True).stdout
    assert html.count('src="data:image/jpeg;base64,') == 1
    other = page.context.new_page()
    open_notebook(other, address('old.ipynb'), run=False)
    still = other.locator('.jp-RenderedImage img')
    still.wait_for()
    other.get_by_text('model not found').first.wait_for()
    assert still.is_visible() and still.evaluate('e => e.naturalWidth') > 300
    screenshot(other, 'map_reopened')
    other.close()


def test_nothing_left_the_machine_and_no_widget_complained(lab):
    _, console, elsewhere, *_ = lab
    assert not elsewhere
    assert not widget_errors(console), console
