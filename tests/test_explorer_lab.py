"""The explorer in a real JupyterLab: gestures reach the kernel, a picture stays in its place."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browsing import (
    HERE,
    IN_A_BROWSER,
    PATIENCE,
    browser_page,
    explore_command,
    needs,
    open_notebook,
    screenshot,
    widget_errors,
    write_notebook,
)
from exploring import at, big_file, box, data, drag, settled, until

needs('anywidget', 'ipywidgets')
pytestmark = IN_A_BROWSER

TESTS = str(Path(__file__).parent)
CELL = f"""
import io, sys
sys.path.insert(0, {TESTS!r})
import ipywidgets
import traitlets
from IPython.display import display
from PIL import Image
from satdino_nb.engine.explorer_view import STATE, ExplorerView
from exploring import START, Canned, two_tiles
def still():
    file = io.BytesIO()
    Image.new('RGB', (400, 200), 'green').save(file, 'JPEG')
    return file.getvalue()
answers = Canned(two_tiles())
shown = ExplorerView(answers, answers.setup, still, **START)
told = ipywidgets.Label()
def tell(_=None):
    v = shown.view
    told.value = f'kernel: {{v.place}} {{v.box}} {{v.out}} {{v.sampling}} {{v.patch}}'
shown.view.observe(tell, list(STATE))
tell()
display(told)
shown
"""


REAL = """
from satdino_nb.data import sample_tiles
from satdino_nb.explorer import Explorer
from satdino_nb.vit import load_satdino
explorer = Explorer(
    sample_tiles('place'), load_satdino('satdino-nano'), collection=sample_tiles('test')
)
explorer.state.name = 'residential'
explorer
"""


RASTER = """
import ipywidgets
from IPython.display import display
from satdino_nb.explorer import Explorer
explorer = Explorer('big.tif', out=64)
told = ipywidgets.Label()
def tell(_=None):
    told.value = f'raster: {explorer.state.box} {explorer.state.now.gsd:.4g}'
explorer.state.observe(tell)
tell()
display(told)
explorer
"""


@pytest.fixture(scope='module')
def lab(lab_server):
    "A notebook with the explorer, its console, what it asked elsewhere, its folder and addresses."
    folder, address = lab_server
    write_notebook(folder / 'work' / 'x.ipynb', [CELL])
    write_notebook(folder / 'work' / 'real.ipynb', [REAL])
    with browser_page(width=1300, height=1100) as found:
        page, console, elsewhere = found
        open_notebook(page, address('x.ipynb'))
        failed = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
        page.locator('.satdino-x').or_(failed).first.wait_for()
        assert not failed.count(), failed.first.inner_text()
        settled(page)
        yield page, console, elsewhere, folder, address


def said(page, words):
    "Wait until the kernel has said so."
    page.get_by_text(f'kernel: {words}').wait_for()


def test_keys_reach_the_kernel_and_the_input_follows(lab):
    page = lab[0]
    page.get_by_role('application', name='crop frame').focus()
    page.keyboard.press('Shift+ArrowRight')
    said(page, 'field [150, 210, 200, 200] 64 none []')
    settled(page)
    assert data(page)['shown'] == '150 210 200 200'
    screenshot(page, 'explorer_lab')


def test_drag_and_axis(lab):
    page = lab[0]
    drag(page, at(page, 250, 300), at(page, 260, 350))
    settled(page)
    top, left, h, w = box(page)
    said(page, f'field [{top}, {left}, {h}, {w}] 64')
    mark = page.get_by_role('slider', name='effective GSD of the crop')
    mark.focus()
    page.keyboard.press('Shift+ArrowRight')
    settled(page)
    assert box(page)[2:] == [h + 20, w + 20]
    said(page, f'field [{top - 10}, {left - 10}, {h + 20}, {w + 20}] 64')


def test_patch_and_place_go_in_one_message(lab):
    page = lab[0]
    page.get_by_role('application', name='network input').focus()
    page.keyboard.press('ArrowRight')
    until(page, 'overlay', 'similarity')
    said(page, f'field {box(page)} 64 none [4, 5]')
    page.get_by_role('group', name='neighbours').get_by_role('button').first.click()
    until(page, 'overview', 'town')
    settled(page)
    said(page, 'town [30, 20, 120, 120] 64 none []')


def test_saved_and_reopened_it_shows_a_picture(lab):
    page, _, _, folder, address = lab
    still = page.locator('.jp-RenderedImage img')
    assert still.count() == 1
    still.first.wait_for(state='hidden')  # while the widget lives
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    saved = folder / 'work' / 'x.ipynb'
    for _ in range(100):
        outputs = json.loads(saved.read_text())['cells'][0]['outputs']
        if outputs:
            break
        page.wait_for_timeout(100)
    assert any('image/jpeg' in o.get('data', {}) for o in outputs)
    (folder / 'work' / 'old.ipynb').write_text(saved.read_text())  # as on another machine
    script = [sys.executable, '-m', 'jupyter', 'nbconvert', '--to', 'html', '--stdout', saved]
    html = subprocess.run(script, capture_output=True, text=True, timeout=600).stdout
    assert html.count('src="data:image/jpeg;base64,') == 1
    other = page.context.new_page()
    open_notebook(other, address('old.ipynb'), run=False)
    picture = other.locator('.jp-RenderedImage img')
    picture.wait_for()
    assert picture.is_visible() and picture.evaluate('e => e.naturalWidth') == 400
    other.close()


def test_collection_interval_and_rendering_by_a_real_kernel(lab):
    page = lab[0].context.new_page()
    page.set_viewport_size(dict(width=1300, height=1500))
    open_notebook(page, lab[4]('real.ipynb'))
    page.locator('.satdino-x').wait_for()
    until(page, 'place', 'residential')
    settled(page)
    words = page.get_by_role('group', name='model', exact=True)
    words.get_by_text('90 % interval').wait_for()
    until(page, 'map', 90)  # by then features were computed
    page.wait_for_function("() => document.querySelector('.satdino-x').dataset.here")
    near = page.get_by_role('group', name='neighbours').get_by_role('button')
    assert near.count() == 6 == len(data(page)['near'].split())
    compare = page.get_by_role('radiogroup', name='resampled or rendered')
    compare.get_by_role('radio', name='resampled beside rendered').click()
    until(page, 'rendered', data(page)['box'])
    assert page.locator('.satdino-x-other canvas').get_attribute('data-size') == '64 64'
    screenshot(page, 'explorer_collection')
    first = data(page)['near'].split()[0]
    near.first.click()
    page.wait_for_function("() => document.querySelector('.satdino-x').dataset.place.includes('_')")
    settled(page)  # a tile of the collection, which is a place now
    script = "i => document.querySelector('.satdino-x').dataset.near.split(' ')[0] === i"
    page.wait_for_function(script, arg=first)  # and its own nearest
    assert box(page) == [0, 0, 128, 128]
    screenshot(page, 'explorer_went_there')
    page.evaluate(
        'window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.shutdown()'
    )
    page.close()


def explored_whole(page, said):
    "Keys, scale axis and both ends of it on `big.tif`; `said(box, gsd)` hears of each state."
    until(page, 'place', 'big')
    settled(page)
    words = page.get_by_role('group', name='overview').inner_text()
    assert '10000 x 10000 px, 0.5 m/px' in words
    assert box(page) == [3000, 3000, 4000, 4000]
    page.get_by_role('application', name='crop frame').focus()
    page.keyboard.press('Shift+ArrowRight')
    settled(page)
    said([3000, 3010, 4000, 4000], 31.25)
    mark = page.get_by_role('slider', name='effective GSD of the crop')
    mark.focus()
    page.keyboard.press('End')
    settled(page)
    said([0, 0, 10_000, 10_000], 78.12)
    until(page, 'shown', '0 0 10000 10000')  # all of the file, as 64 pixels
    assert page.locator('.satdino-x-pixels').first.get_attribute('data-size') == '64 64'
    facts = page.locator('.satdino-x-facts').inner_text()
    assert '5 km × 5 km' in facts and '10000 × 10000 → 64 × 64' in facts
    page.keyboard.press('Home')
    until(page, 'gsd', 0.0625)
    settled(page)
    assert box(page)[2:] == [8, 8]
    page.get_by_text('upsampled: no new detail').first.wait_for()
    assert not page.get_by_role('radiogroup', name='resampled or rendered').is_visible()
    assert not data(page).get('errors')


def test_a_raster_file_is_explored_whole_in_jupyterlab(lab):
    pytest.importorskip('rasterio')
    _, _, _, folder, address = lab
    big_file(folder / 'work' / 'big.tif')
    write_notebook(folder / 'work' / 'raster.ipynb', [RASTER])
    page = lab[0].context.new_page()
    page.set_viewport_size(dict(width=1300, height=1100))
    open_notebook(page, address('raster.ipynb'))
    page.locator('.satdino-x').wait_for()

    def said(where, gsd):
        page.get_by_text(f'raster: {tuple(where)} {gsd:.4g}').wait_for()

    explored_whole(page, said)
    screenshot(page, 'explorer_raster_lab')
    page.evaluate(
        'window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.shutdown()'
    )
    page.close()


def test_satdino_explore_serves_a_raster_and_a_collection(lab, tmp_path):
    "Voila: the file is one place, and an index of `satdino embed` gives neighbours."
    pytest.importorskip('rasterio')
    pytest.importorskip('voila')
    from satdino_nb.data import sample_tiles
    from satdino_nb.engine.embedding import embed_tiles

    big = big_file(tmp_path / 'big.tif')
    index = tmp_path / 'few.npz'
    embed_tiles(sample_tiles('test').subset(range(0, 90, 9)), index, 'satdino-nano')
    context = lab[0].context.browser.new_context(viewport=dict(width=1300, height=1500))
    page, away, refused = context.new_page(), [], []
    page.set_default_timeout(PATIENCE * 1000)
    context.on('request', lambda r: re.match(HERE, r.url) or away.append(r.url))
    context.on('requestfailed', lambda r: 'csp' in (r.failure or '') and refused.append(r.url))
    with explore_command(big, '--collection', index) as address:
        page.goto(address, timeout=600_000)
        page.locator('.satdino-x[data-shown]').wait_for(timeout=600_000)

        def said(where, gsd):
            until(page, 'shown', ' '.join(map(str, where)))
            assert float(data(page)['gsd']) == pytest.approx(gsd, rel=2e-3)

        explored_whole(page, said)
        page.wait_for_function("() => document.querySelector('.satdino-x').dataset.near")
        near = [int(i) for i in data(page)['near'].split()]
        assert len(set(near)) == 6 and max(near) < 10
        screenshot(page, 'explorer_voila')
    context.close()
    assert set(away) <= set(refused), away  # what Voila's own page asks for elsewhere


def test_nothing_left_the_machine_and_no_widget_complained(lab):
    _, console, elsewhere, *_ = lab
    assert not elsewhere
    assert not widget_errors(console), console


def test_a_kernel_that_is_gone_is_noticed(lab):
    page = lab[0]
    page.evaluate(
        'window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.shutdown()'
    )
    page.get_by_role('application', name='crop frame').focus()
    page.keyboard.press('ArrowRight')
    page.get_by_role('alert').get_by_text('No answer from the kernel').wait_for()
