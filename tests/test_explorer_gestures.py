"""Every gesture of the explorer in a real JupyterLab, with a real model and collection.

One notebook is opened once. A test makes its gesture by mouse or keys, and then asks the kernel
what it knows: the state that a user's next cell would find.
"""

import ast
import re

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
from exploring import at, box, data, drag, settled, until
from PIL import Image

from satdino_nb.data import sample_tiles
from satdino_nb.engine.crop_pictures import as_picture
from satdino_nb.engine.crop_state import gsd_histogram, histogram_words
from satdino_nb.explorer import CropState, named_tiles, network_input

needs('anywidget', 'ipywidgets')
pytestmark = IN_A_BROWSER

CELL = """
from threading import Event
from satdino_nb.data import Tile, sample_tiles
from satdino_nb.engine import collection
from satdino_nb.engine.attention_maps import blocks_of
from satdino_nb.explorer import CropState, Explorer, named_tiles, network_input
from satdino_nb.vit import load_satdino

def no_umap(*_, **__):
    raise ImportError('left out: its first map takes long')

collection.umap_map = no_umap
drawn = named_tiles(sample_tiles('place'))['residential']
tiles = {'residential': drawn, 'own': Tile(drawn.image[:, :300, :400].clone(), 2.0)}
model = load_satdino('satdino-nano', verbose=False)
explorer = Explorer(tiles, model, collection=sample_tiles('test').subset(range(0, 90, 6)))
view, answers = explorer.face.view, explorer.answers

gate, trouble, asked = Event(), [], []
gate.set()

def wait(*_):
    gate.wait()
    if trouble:
        raise RuntimeError(trouble.pop())

blocks_of(model)[0].register_forward_pre_hook(wait)
real_answer = answers.answer

def answer(request):
    asked.append(request)
    return real_answer(request)

answers.answer = answer
FIRST = dict(token='none', layer=-1, head=-1, mass=0.0, opacity=0.6, patch=[], sampling='none')

def again():
    'As it was at first.'
    state = explorer.state
    state.name, state.out, state.square, state.seed = 'residential', 64, True, 0
    state.sampling = 'none'
    state.box = (192, 192, 256, 256)
    for name, value in FIRST.items():
        setattr(view, name, value)
    asked.clear()

def last(kind):
    return next(q for q in reversed(asked) if q['kind'] == kind)

again()
explorer
"""
PLACE = 'residential'
START = [192, 192, 256, 256]
FRAME = dict(role='application', name='crop frame')


def ask(page, expression):
    "What the kernel makes of an expression."
    script = """async (text) => {
      const { kernel } = window.jupyterapp.shell.currentWidget.context.sessionContext.session;
      const told = await kernel.requestExecute({
        code: '', silent: true, store_history: false, user_expressions: { it: text },
      }).done;
      const { it } = told.content.user_expressions;
      return it.status === 'ok' ? it.data['text/plain'] : `${it.ename}: ${it.evalue}`;
    }"""
    told = page.evaluate(script, expression)
    try:
        return ast.literal_eval(told)
    except (SyntaxError, ValueError) as e:
        raise AssertionError(f'{expression}: {told}') from e


def knows(page, expression, value):
    "Wait until the kernel knows so: changes come in on other threads than questions."
    for _ in range(200):
        told = ask(page, expression)
        if told == value:
            return
        page.wait_for_timeout(50)
    assert told == value, expression


def state(page):
    "The box of the page at rest, which the kernel knows, too."
    settled(page)
    knows(page, 'list(explorer.state.box)', box(page))
    return box(page)


def scrolled(page):
    "How far the notebook is scrolled, in pixels."
    return page.evaluate(
        """() => Math.max(...[...document.querySelectorAll('.jp-NotebookPanel *')]
             .map((e) => e.scrollTop))"""
    )


@pytest.fixture(scope='module')
def notebook(lab_server):
    "The page with the explorer, its console, what it asked elsewhere, and its folder."
    folder, address = lab_server
    write_notebook(folder / 'work' / 'gestures.ipynb', [CELL, *['# below'] * 40])
    with browser_page(width=1300, height=1000) as (page, console, elsewhere):
        page.context.grant_permissions(['clipboard-read', 'clipboard-write'])
        open_notebook(page, address('gestures.ipynb'))
        failed = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
        page.locator('.satdino-x').or_(failed).first.wait_for()
        assert not failed.count(), failed.first.inner_text()
        settled(page)
        until(page, 'map', 15)
        yield page, console, elsewhere, folder / 'work'


@pytest.fixture
def page(notebook, request):
    "The page, with everything as it was at first."
    page = notebook[0]
    page.mouse.move(2, 2)
    page.evaluate('document.activeElement.blur()')
    ask(page, 'again()')
    for name, value in dict(box=' '.join(map(str, START)), seed=0, overlay='none').items():
        until(page, name, value)
    page.wait_for_function("() => document.querySelector('.satdino-x').dataset.near")
    settled(page)
    ask(page, 'asked.clear()')
    yield page
    screenshot(page, re.sub(r'\W+', '_', request.node.name.removeprefix('test_')))


def spot(page, top, left):
    return at(page, top, left, 640)


def test_drag_moves_the_frame(page):
    drag(page, spot(page, 320, 320), spot(page, 370, 280))
    assert state(page) == pytest.approx([242, 152, 256, 256], abs=2)
    assert ask(page, "last('input')['box'] == last('model')['box'] == list(explorer.state.box)")


CORNERS = {
    'nw': ((192, 192), (152, 132), [132, 132, 316, 316]),
    'se': ((448, 448), (418, 388), [192, 192, 226, 226]),
    's': ((448, 320), (408, 320), [192, 212, 216, 216]),
    'w': ((320, 192), (320, 232), [212, 232, 216, 216]),
}


@pytest.mark.parametrize('name', CORNERS)
def test_a_handle_resizes(page, name):
    start, end, wanted = CORNERS[name]
    drag(page, spot(page, *start), spot(page, *end))
    assert state(page) == pytest.approx(wanted, abs=2)
    assert ask(page, 'explorer.state.box[2] == explorer.state.box[3]')


def test_a_handle_resizes_one_side_where_it_need_not_be_square(page):
    page.get_by_label('keep square').uncheck()
    drag(page, spot(page, 320, 448), spot(page, 320, 508))
    assert state(page) == pytest.approx([192, 192, 256, 316], abs=2)
    page.get_by_label('keep square').check()
    top, left, h, w = state(page)
    assert (top, h, w) == (192, 256, 256)
    knows(page, 'explorer.state.square', True)


def test_wheel_scrolls_the_notebook_until_the_overview_is_clicked(page):
    page.mouse.move(*spot(page, 320, 320))
    before = scrolled(page)
    page.mouse.wheel(0, 120)
    page.wait_for_function(
        """(n) => [...document.querySelectorAll('.jp-NotebookPanel *')]
             .some((e) => e.scrollTop > n)""",
        arg=before,
    )
    knows(page, 'explorer.state.box', tuple(START))
    page.mouse.click(*spot(page, 320, 320))
    before = scrolled(page)
    page.mouse.wheel(0, 300)
    page.wait_for_function("() => document.querySelector('.satdino-x').dataset.gsd > 2")
    top, left, h, w = state(page)
    assert h == w > 256 and (top + h / 2, left + w / 2) == pytest.approx((320, 320), abs=1)
    page.mouse.wheel(0, -900)
    page.wait_for_function("() => document.querySelector('.satdino-x').dataset.gsd < 1.5")
    assert state(page)[2] < 256 and scrolled(page) == before


def test_scale_axis_is_dragged_about_a_fixed_centre(page):
    pill = page.locator('.satdino-x-pill')
    pill.scroll_into_view_if_needed()
    b = pill.bounding_box()
    x, y = b['x'] + b['width'] / 2, b['y'] + b['height'] / 2
    drag(page, (x, y), (x - 90, y))
    top, left, h, w = state(page)
    assert h == w < 200 and (top + h / 2, left + w / 2) == pytest.approx((320, 320), abs=1)
    knows(page, 'explorer.state.now.gsd', pytest.approx(float(data(page)['gsd']), rel=5e-3))


@pytest.mark.parametrize('token', ['cls', 'gsd'])
def test_attention_of_a_token_a_layer_and_a_head(page, token):
    overlay = page.get_by_role('radiogroup', name='overlay')
    overlay.get_by_role('radio', name=f'attention of the {token.upper()} token').click()
    until(page, 'overlay', token)
    for name, presses in (('Layer', 3), ('Head', 2)):
        page.get_by_role('slider', name=name).focus()
        for _ in range(presses):
            page.keyboard.press('ArrowRight')
    settled(page)
    knows(page, '(view.token, view.layer, view.head)', (token, 2, 1))
    page.get_by_text(f'attention of the {token.upper()} token, layer 3, head 2').wait_for()
    knows(page, "[last('model')[n] for n in ('token', 'layer', 'head')]", [token, 2, 1])


def test_mass_and_opacity_are_drawn_in_the_page_and_known_to_the_kernel(page):
    page.get_by_role('radio', name='attention of the CLS token').click()
    until(page, 'overlay', 'cls')
    until(page, 'patches', 64)
    n = ask(page, "sum(q['kind'] == 'model' for q in asked)")
    page.get_by_role('slider', name='Mass').focus()
    for _ in range(10):
        page.keyboard.press('ArrowRight')
    page.wait_for_function("() => +document.querySelector('.satdino-x').dataset.patches < 40")
    page.get_by_role('slider', name='Opacity').focus()
    page.keyboard.press('ArrowLeft')
    page.keyboard.press('ArrowLeft')
    settled(page)
    knows(page, '(view.mass, view.opacity)', (0.5, 0.5))
    knows(page, "sum(q['kind'] == 'model' for q in asked)", n)
    attended = ask(
        page,
        "sorted(answers.look('residential', (192, 192, 256, 256), 64)"
        ".attention[-1].map('cls')[0].flatten().tolist())[::-1]",
    )
    count = next(k for k in range(65) if sum(attended[:k]) >= 0.5 * sum(attended))
    assert int(data(page)['patches']) == pytest.approx(count, abs=1)  # a byte each


def test_a_patch_is_clicked(page):
    stage = page.get_by_role('application', name='network input')
    stage.scroll_into_view_if_needed()
    b = stage.bounding_box()
    page.mouse.click(b['x'] + b['width'] * 3.5 / 8, b['y'] + b['height'] * 6.5 / 8)
    until(page, 'overlay', 'similarity')
    knows(page, '(view.token, view.patch)', ('similarity', [6, 3]))
    page.get_by_text('cosine of the patches to patch (6, 3)').wait_for()
    page.keyboard.press('Shift+ArrowUp')  # the click took the focus
    page.get_by_text('cosine of the patches to patch (2, 3)').wait_for()
    knows(page, "last('model')['patch']", [2, 3])


def points(page):
    "Where the collection's tiles are on the map: between 0 and 1, and on the page."
    xy = ask(
        page,
        "(lambda b: [[int.from_bytes(b[k:k + 2], 'little') / 65535 for k in (i, i + 2)]"
        " for i in range(0, len(b), 4)])(real_answer(dict(kind='map'))[1][0])",
    )
    stage = page.get_by_role('application', name='map of 15 tiles')
    stage.scroll_into_view_if_needed()
    b = stage.bounding_box()
    scale = min(b['width'], b['height']) - 38
    middle = b['x'] + b['width'] / 2, b['y'] + b['height'] / 2
    return [(middle[0] + (x - 0.5) * scale, middle[1] - (y - 0.5) * scale) for x, y in xy]


def test_a_point_of_the_map_is_hovered_and_clicked(page):
    places = points(page)
    i = max(range(15), key=lambda i: sorted(apart(places[i], p) for p in places)[1])  # alone
    page.mouse.move(*places[i])
    until(page, 'thumb', i)
    tip = page.locator('.satdino-x-tip')
    name, gsd = ask(page, f"(lambda r: (r['name'], r['gsd']))(answers.collection.row({i}))")
    assert tip.inner_text().startswith(f'{name}, {gsd:.3g} m/px')
    page.wait_for_function("() => document.querySelector('.satdino-x-tip img')?.naturalWidth > 0")
    screenshot(page, 'map_hover')
    page.mouse.click(*places[i])
    until(page, 'place', name)
    settled(page)
    knows(page, '(explorer.state.name, explorer.state.box)', (name, (0, 0, 128, 128)))


def apart(a, b):
    return ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) ** 0.5


def test_a_lasso_dims_the_rest(page):
    places = points(page)
    middle = sorted(x for x, _ in places)[7]
    low, high = (f(y for _, y in places) for f in (min, max))
    left = min(x for x, _ in places) - 12
    right = middle + 0.5
    page.mouse.move(left, low - 12)
    page.mouse.down()
    for corner in ((right, low - 12), (right, high + 12), (left, high + 12)):
        page.mouse.move(*corner, steps=4)
    page.mouse.up()
    wanted = [i for i, (x, _) in enumerate(places) if x < right]
    until(page, 'selected', ' '.join(map(str, wanted)))
    assert 0 < len(wanted) < 15 and ask(page, 'explorer.state.box') == tuple(START)
    screenshot(page, 'lasso')
    page.keyboard.press('Escape')
    until(page, 'selected', '')


def test_a_neighbour_is_clicked(page):
    near = [int(i) for i in data(page)['near'].split()]
    wanted = ask(
        page,
        "[r['i'] for r in answers.collection.neighbours("
        "answers.vector('residential', (192, 192, 256, 256), 64), 6)]",
    )
    assert near == wanted
    name = ask(page, f'answers.collection.names[{near[1]}]')
    page.get_by_role('group', name='neighbours').get_by_role('button').nth(1).click()
    until(page, 'place', name)
    settled(page)
    knows(page, '(explorer.state.name, explorer.state.box)', (name, (0, 0, 128, 128)))
    assert data(page)['near'].split()[0] == str(near[1])


def test_views_are_framed_drawn_again_and_gone_to(page):
    page.get_by_role('radio', name='show random views').click()
    until(page, 'footprints', 12)
    page.get_by_role('button', name='draw the views with the next seed').click()
    until(page, 'drawn', 1)
    until(page, 'histogram', 1)
    settled(page)
    knows(page, '(explorer.state.sampling, explorer.state.seed)', ('random', 1))
    tile = named_tiles(sample_tiles('place'))[PLACE]
    now = CropState(tile, seed=1, name=PLACE)
    words = page.get_by_role('note', name='histogram of GSDs').inner_text()
    assert words == f'Bars: {histogram_words(gsd_histogram(now)[1], 1)}'
    wanted = now.draw('random')[7]
    page.locator('.satdino-x-view-mark').nth(12 + 7).click()
    assert state(page) == [wanted.top, wanted.left, *wanted.hw]
    knows(page, 'explorer.state.out', 96)
    tag = page.locator('.satdino-x-tag').nth(0).locator('text')
    tag.scroll_into_view_if_needed()
    tag.click()
    whole = now.draw('random')[0]
    until(page, 'box', f'{whole.top} {whole.left} {whole.hw[0]} {whole.hw[1]}')
    assert state(page) == [whole.top, whole.left, *whole.hw]


def test_a_scene_is_rendered_beside_what_is_resampled(page):
    compare = page.get_by_role('radiogroup', name='resampled or rendered')
    compare.get_by_role('radio', name='resampled beside rendered').click()
    until(page, 'rendered', ' '.join(map(str, START)))
    knows(page, "last('rendered')['box']", START)
    drag(page, spot(page, 320, 320), spot(page, 340, 330))
    moved = state(page)
    until(page, 'rendered', ' '.join(map(str, moved)))
    knows(page, "last('rendered')['box']", moved)
    screenshot(page, 'rendered_beside')
    compare.get_by_role('radio', name='what the network is given').click()
    page.get_by_label('ground', exact=True).select_option('own')
    until(page, 'overview', 'own')
    settled(page)
    assert not compare.is_visible()
    knows(page, 'explorer.state.name', 'own')
    page.get_by_text('not a drawn scene, so it can be resampled and not rendered').wait_for()


def test_controls_by_keys_leave_the_notebook_alone(page):
    "Letters are commands of a notebook: b adds a cell, x cuts one, m makes it text."
    cells = 'window.jupyterapp.shell.currentWidget.content.widgets.map((w) => w.model.type)'
    before = page.evaluate(cells)
    for control in (
        page.get_by_role(**FRAME),
        page.get_by_role('application', name='network input'),
        page.get_by_role('application', name='map of 15 tiles'),
        page.get_by_role('button', name='draw the views with the next seed'),
        page.get_by_label('keep square'),
        page.get_by_label('ground', exact=True),
        page.get_by_role('slider', name='Output'),
        page.get_by_role('slider', name='effective GSD of the crop'),
    ):
        for key in ('b', 'm', 'x', 'ArrowDown', 'ArrowUp'):
            control.focus()
            page.keyboard.press(key)
            assert control.evaluate('e => e === document.activeElement'), (control, key)
    page.get_by_role('button', name='draw the views with the next seed').focus()
    page.keyboard.press('Enter')
    until(page, 'drawn', 1)
    page.get_by_label('keep square').focus()
    page.keyboard.press('Space')
    settled(page)
    knows(page, '(explorer.state.seed, explorer.state.square)', (1, False))
    assert page.evaluate(cells) == before
    page.keyboard.press('Control+s')  # stays the notebook's
    page.wait_for_function(
        '() => !window.jupyterapp.shell.currentWidget.context.model.dirty', timeout=20_000
    )


def test_numbers_are_typed(page):
    fields = page.get_by_role('group', name='box in source pixels')
    fields.get_by_label('height').fill('100')
    fields.get_by_label('height').press('Enter')
    assert state(page) == [270, 270, 100, 100]
    page.get_by_role('slider', name='Output').fill('128')
    page.get_by_text('upsampled: no new detail').first.wait_for()
    settled(page)
    knows(page, '(explorer.state.out, explorer.state.now.crop.upsampled)', (128, True))


def test_the_saved_picture_is_the_exact_input_and_carries_its_gsd(page, notebook):
    page.get_by_role(**FRAME).focus()
    page.keyboard.press('Shift+ArrowRight')
    settled(page)
    page.get_by_role('button', name='save the network input as PNG').click()
    page.wait_for_function("() => document.querySelector('.satdino-x').dataset.saved")
    now = CropState(named_tiles(sample_tiles('place'))[PLACE], (192, 202, 256, 256), 64)
    path = notebook[3] / data(page)['saved']
    assert path.name == f'{PLACE}_192x202x256x256_64px_{now.gsd:.4g}m.png'
    with Image.open(path) as saved:
        assert float(saved.text['gsd']) == pytest.approx(now.gsd, rel=1e-8)
        exact = as_picture(network_input(now.tile, now.crop))
        assert saved.mode == 'RGB' and saved.tobytes() == exact.tobytes()


def test_the_copied_code_gives_the_same_crop(page):
    page.get_by_role('radio', name='show random views').click()
    page.get_by_role('button', name='draw the views with the next seed').click()
    drag(page, spot(page, 448, 448), spot(page, 418, 388))
    state(page)
    knows(page, '(explorer.state.sampling, explorer.state.seed)', ('random', 1))
    page.get_by_role('button', name='copy this state').click()
    code = page.evaluate('navigator.clipboard.readText()')
    assert code == page.get_by_role('textbox', name='state as code').input_value()
    known = '(s.name, s.box, s.out, s.gsd, s.sampling, s.seed)'
    again, now = (
        ask(page, f'(lambda s: {known})({s})')
        for s in (
            f'eval({code!r}, dict(globals(), tiles=explorer.state.tiles))',
            'explorer.state.now',
        )
    )
    assert again == now and now[4:] == ('random', 1)
    same = ask(
        page,
        '(lambda *pair: len({network_input(s.tile, s.crop).numpy().tobytes() for s in pair}) == 1)'
        f'({code}, explorer.state.now)',
    )
    assert same is True
    page.get_by_role(**FRAME).focus()
    page.keyboard.press('ArrowRight')
    settled(page)  # the code that is shown is of what is shown
    shown = page.get_by_role('textbox', name='state as code').input_value()
    assert shown == code.replace('box=(192, 192,', 'box=(192, 193,') != code


def test_a_slow_model_is_waited_for_and_nothing_else_is(page):
    pane = page.get_by_role('group', name='model', exact=True)
    said = pane.locator('strong').inner_text()
    overlay = page.get_by_role('radio', name='attention of the CLS token')
    overlay.click()
    until(page, 'overlay', 'cls')
    settled(page)
    ask(page, 'gate.clear()')
    try:
        page.get_by_role(**FRAME).focus()
        page.keyboard.press('Shift+ArrowRight')
        until(page, 'computing', 'model')
        pane.get_by_text('computing…').wait_for()
        until(page, 'shown', '192 202 256 256')  # the input is there meanwhile
        assert data(page)['overlay'] == 'cls' and pane.locator('strong').inner_text() == said
        page.get_by_text('model, neighbours: still at work…').wait_for()
        page.keyboard.press('Shift+ArrowRight')
        until(page, 'shown', '192 212 256 256')
        page.get_by_role('button', name='draw the views with the next seed').click()
        until(page, 'histogram', 1)
        assert data(page)['answered'] == ' '.join(map(str, START))
        page.wait_for_timeout(6500)  # longer than a kernel that is there keeps silent
        assert not data(page).get('errors')
        screenshot(page, 'computing')
    finally:
        ask(page, 'gate.set()')
    until(page, 'answered', '192 212 256 256')
    settled(page)
    assert pane.locator('strong').inner_text() != said
    assert not pane.get_by_text('computing…').count()


def test_what_goes_wrong_in_the_model_is_said_in_the_widget(page):
    ask(page, "trouble.append('no <b>memory</b> left')")
    page.get_by_role(**FRAME).focus()
    page.keyboard.press('Shift+ArrowRight')
    alert = page.get_by_role('alert')
    alert.get_by_text('no <b>memory</b> left').first.wait_for()
    until(page, 'shown', '192 202 256 256')
    until(page, 'computing', '')
    pane = page.get_by_role('group', name='model', exact=True)
    pane.get_by_text('of an earlier crop').wait_for()  # the old answer stays, and says so
    screenshot(page, 'trouble')
    page.keyboard.press('Shift+ArrowLeft')
    settled(page)
    page.wait_for_function("() => !document.querySelector('.satdino-x').dataset.errors")
    assert alert.inner_text() == '' and 'earlier' not in pane.inner_text()


def test_nothing_left_the_machine_and_no_widget_complained(notebook):
    _, console, elsewhere, _ = notebook
    assert not elsewhere
    assert not widget_errors(console), console
