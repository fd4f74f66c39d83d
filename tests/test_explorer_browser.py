"""The explorer under the pointer, in a plain page and as a saved one.

Each gesture is held to what the page says of its state (`data-...`) and to what it asked; no test
looks at pixels, and no request leaves the machine.
"""

import importlib

import pytest
from browsing import IN_A_BROWSER, browser_page, needs, screenshot
from exploring import (
    GSD,
    SIDE,
    START,
    Canned,
    at,
    box,
    data,
    drag,
    plain_page,
    settled,
    two_tiles,
    until,
)

from satdino_nb.engine.crop_state import CropState
from satdino_nb.engine.explorer_view import explorer_js

needs('anywidget')
pytestmark = IN_A_BROWSER


@pytest.fixture(scope='module')
def browser():
    "A page, its console, and what it asked elsewhere."
    with browser_page(width=1216, height=1000) as found:
        yield found


@pytest.fixture
def opened(browser):
    "Opens the explorer anew, `open(answers..., state...)`; gives the page and the answers."
    first, console, _ = browser
    pages = []

    def open_it(
        model=True,
        collection=True,
        plain=False,
        width=1216,
        computing=0,
        layouts=('grid',),
        **state,
    ):
        page = first.context.new_page()
        pages.append(page)
        page.on('console', lambda m: console.append(m.text) if m.type == 'error' else None)
        page.on('pageerror', lambda e: console.append(str(e)))
        page.set_viewport_size(dict(width=width, height=1000))
        answers = Canned(two_tiles(), model, collection, plain)
        answers.computing, answers.layouts = computing, list(layouts)
        plain_page(page, answers, START | state)
        settled(page)
        return page, answers

    yield open_it
    for page in pages:
        page.close()


def kinds(answers):
    return [q['kind'] for q in answers.asked]


def test_drag_moves_the_frame_and_asks_the_model_once(opened):
    page, answers = opened()
    answers.asked.clear()
    drag(page, at(page, 250, 300), at(page, 290, 330), steps=12)
    settled(page)
    top, left, h, w = box(page)
    assert (top, left) == pytest.approx((190, 230), abs=2) and (h, w) == (SIDE, SIDE)
    assert page.evaluate('pageState.box') == [top, left, h, w]  # and the kernel would know
    assert kinds(answers).count('model') == kinds(answers).count('neighbours') == 1
    inputs = [q['box'] for q in answers.asked if q['kind'] == 'input']
    assert inputs[-1] == [top, left, h, w]  # the last is always delivered
    assert float(data(page)['gsd']) == pytest.approx(SIDE * GSD / 64, rel=0.01)


def test_a_press_elsewhere_brings_the_frame_there_and_it_stays_inside(opened):
    page, _ = opened()
    drag(page, at(page, 450, 560), at(page, 495, 595))
    settled(page)
    assert box(page) == [300, 400, SIDE, SIDE]


def test_handles_resize_and_the_far_corner_stays(opened):
    page, _ = opened()
    drag(page, at(page, 150, 200), at(page, 110, 160))  # north west
    settled(page)
    top, left, h, w = box(page)
    assert h == w == pytest.approx(240, abs=2) and (top + h, left + w) == (350, 400)
    page.get_by_label('keep square').uncheck()
    drag(page, at(page, top + h / 2, left + w), at(page, top + h / 2, left + w + 60))  # east
    settled(page)
    assert box(page)[:3] == [top, left, h] and box(page)[3] == pytest.approx(w + 60, abs=2)
    page.get_by_label('keep square').check()
    settled(page)
    assert box(page)[2] == box(page)[3] == h


def test_wheel_resizes_about_the_centre_once_the_overview_is_clicked(opened):
    page, _ = opened()
    page.mouse.move(*at(page, 250, 300))
    page.mouse.wheel(0, 60)
    page.get_by_text('Click the overview, or hold Ctrl').wait_for()
    assert box(page) == START['box']
    page.mouse.click(*at(page, 250, 300))
    page.mouse.wheel(0, 300)
    page.wait_for_function("() => document.querySelector('.satdino-x').dataset.gsd > 1.7")
    settled(page)
    top, left, h, w = box(page)
    assert h == w > SIDE and top + h / 2 == pytest.approx(250, abs=1)
    for _ in range(12):
        page.mouse.wheel(0, -900)
    smallest = "() => document.querySelector('.satdino-x').dataset.box.endsWith(' 8 8')"
    page.wait_for_function(smallest)
    assert box(page)[0] + 4 == pytest.approx(250, abs=1)  # the centre did not creep


def test_keys_move_and_resize_and_never_queue(opened):
    page, answers = opened()
    page.get_by_role('application', name='crop frame').focus()
    page.keyboard.press('ArrowRight')
    page.keyboard.press('Shift+ArrowDown')
    assert page.evaluate('pageState.box') == [160, 201, SIDE, SIDE]
    page.keyboard.press('+')
    page.keyboard.press('Shift+-')
    assert page.evaluate('pageState.box') == [169, 210, SIDE - 18, SIDE - 18]
    settled(page)
    answers.asked.clear()
    for _ in range(40):
        page.keyboard.press('ArrowLeft')
    settled(page)
    assert box(page)[1] == 170 and kinds(answers).count('input') <= 40
    assert kinds(answers).count('model') <= 4  # at rest only, not at each key


def test_scale_axis_grows_the_crop_about_its_centre_and_back(opened):
    page, _ = opened()
    mark = page.get_by_role('slider', name='effective GSD of the crop')
    mark.scroll_into_view_if_needed()
    pill = page.locator('.satdino-x-pill').bounding_box()
    x, y = pill['x'] + pill['width'] / 2, pill['y'] + pill['height'] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 80, y, steps=5)
    top, left, h, w = page.evaluate('pageState.box')
    assert h == w > 1.2 * SIDE
    assert (top + h / 2, left + w / 2) == pytest.approx((250, 300), abs=1)
    page.mouse.move(x, y, steps=5)
    page.mouse.up()
    settled(page)
    assert box(page) == START['box']  # there and back is the same crop
    mark.focus()
    page.keyboard.press('End')
    settled(page)
    assert box(page)[2:] == [500, 500]
    page.keyboard.press('Home')
    settled(page)
    assert box(page)[2:] == [8, 8]
    assert float(mark.get_attribute('aria-valuenow')) == pytest.approx(8 * GSD / 64, rel=0.01)


def test_both_samplings_are_framed_marked_and_drawn_again(opened):
    page, answers = opened()
    assert data(page)['footprints'] == '0' and data(page)['ticks'] == '24'
    page.get_by_role('radiogroup', name='views').get_by_role('radio', name='both').click()
    until(page, 'footprints', 24)
    legend = page.get_by_role('group', name='legend of the sampled views').inner_text()
    assert 'uniform (solid, u)' in legend and 'random (dashed, r)' in legend
    page.get_by_role('button', name='draw the views with the next seed').click()
    until(page, 'drawn', 1)
    assert [q['seed'] for q in answers.asked if q['kind'] == 'views'] == [0, 1]
    wanted = answers.answer(dict(kind='views', place='field', seed=1))[0]['uniform'][5]
    page.locator('.satdino-x-view-mark').nth(5).click()
    settled(page)
    assert box(page) == wanted['box'] and page.evaluate('pageState.out') == wanted['out'] == 96


COUNTED = """() => [...document.querySelectorAll('.satdino-x-count')].map((e) =>
  [e.dataset.how, ...['x', 'width', 'height'].map((k) => +e.getAttribute(k))])"""


def test_histograms_share_bins_and_scale_and_come_once_after_the_last_draw(opened):
    page, answers = opened()
    told, _ = answers.answer(dict(kind='histogram', place='field', seed=0))
    bars = page.evaluate(COUNTED)
    most = max(told['uniform'] + told['random'])
    for how in ('uniform', 'random'):
        mine = [b for b in bars if b[0] == how]
        counts = [n for n in told[how] if n]
        assert len(mine) == len(counts)
        assert [b[3] / 30 for b in mine] == pytest.approx([n / most for n in counts], abs=1e-6)
    assert len({b[1] for b in bars}) <= 10  # both in the same segments
    words = page.get_by_role('note', name='histogram of GSDs')
    assert words.inner_text().startswith('Bars: local views of seed 0 in 10 segments: uniform in')
    answers.asked.clear()
    again = page.get_by_role('button', name='draw the views with the next seed')
    again.evaluate('e => { for (let i = 0; i < 7; i++) e.click(); }')
    assert words.inner_text().startswith('Bars: local views of seed 0')  # the old one stays
    until(page, 'histogram', 7)
    assert [q['seed'] for q in answers.asked if q['kind'] == 'histogram'] == [7]
    assert words.inner_text().startswith('Bars: local views of seed 7')
    page.get_by_label('ground', exact=True).select_option('town')
    page.wait_for_function("() => document.querySelector('.satdino-x').dataset.bars === '0'")
    page.wait_for_function("() => document.querySelector('.satdino-x').dataset.bars > 9")
    asked = [q for q in answers.asked if q['kind'] == 'histogram']
    assert len(asked) == 2 and asked[-1]['place'] == 'town'


def test_a_crop_in_the_browser_has_the_gsd_that_the_kernel_gives_it(opened, tmp_path):
    "A raster in degrees: between the places of its table, and out to the edges, to 0.05 %."
    rasterio = pytest.importorskip('rasterio')
    import numpy as np

    from satdino_nb.engine.places import RasterPlace, gsd_table

    values = np.random.default_rng(1).integers(1, 256, (3, 400, 300), dtype=np.uint8)
    where = dict(crs='EPSG:4326', transform=rasterio.transform.from_origin(10.0, 60.0, 0.05, 0.05))
    shape = dict(driver='GTiff', count=3, height=400, width=300, dtype='uint8')
    with rasterio.open(tmp_path / 'degrees.tif', 'w', **shape, **where) as file:
        file.write(values)
    place = RasterPlace(tmp_path / 'degrees.tif')
    told = dict(hw=list(place.hw), gsd=place.gsd, gsds=gsd_table(place))
    page, _ = opened(model=False, collection=False)
    module = f'{explorer_js()}\nwindow.kit = {{ sourceGsd, gsdOf }};'
    page.evaluate(
        """text => import(URL.createObjectURL(new Blob([text], { type: 'text/javascript' })))""",
        module,
    )
    tops = [0, 3, 60, 187, 200, 350, 392]
    boxes = [[t, left, side, side] for t in tops for left in (0, 149, 292) for side in (8, 200)]
    boxes = [b for b in boxes if b[0] + b[2] <= 400 and b[1] + b[3] <= 300]
    got = page.evaluate(
        '([place, boxes]) => boxes.map((b) => [kit.sourceGsd(place, b), kit.gsdOf(b, place, 64)])',
        [told, boxes],
    )
    for box_, (source, gsd) in zip(boxes, got):
        state = CropState(place, tuple(box_), 64)
        assert source == pytest.approx(place.gsd_at(tuple(box_)), rel=5e-4), box_
        assert gsd == pytest.approx(state.gsd, rel=5e-4), box_
    spread = [place.gsd_at((t, 0, 8, 8)) for t in (0, 392)]
    assert max(spread) > 1.25 * min(spread)
    flat = dict(told, gsds=None)
    once = page.evaluate('([p, b]) => kit.sourceGsd(p, b)', [flat, boxes[0]])
    assert once == place.gsd


def test_a_patch_is_clicked_and_walked_from(opened):
    page, answers = opened()
    stage = page.get_by_role('application', name='network input')
    b = stage.bounding_box()
    page.mouse.click(b['x'] + b['width'] * 3.5 / 8, b['y'] + b['height'] * 6.5 / 8)
    until(page, 'overlay', 'similarity')
    assert page.evaluate('pageState.patch') == [6, 3]
    stage.focus()
    page.keyboard.press('ArrowUp')
    settled(page)
    assert answers.asked[-1]['kind'] == 'model' and answers.asked[-1]['patch'] == [5, 3]


def test_overlays_have_a_token_a_layer_a_head_and_a_mass(opened):
    page, answers = opened()
    overlay = page.get_by_role('radiogroup', name='overlay')
    overlay.get_by_role('radio', name='attention of the CLS token').click()
    until(page, 'overlay', 'cls')
    until(page, 'patches', 64)
    page.keyboard.press('ArrowRight')  # the radio has the focus
    until(page, 'overlay', 'gsd')
    page.get_by_label('Layer').fill('4')
    page.get_by_label('Head').fill('2')
    settled(page)
    last = [q for q in answers.asked if q['kind'] == 'model'][-1]
    assert (last['token'], last['layer'], last['head']) == ('gsd', 4, 2)
    n = len(answers.asked)
    page.get_by_label('Mass').fill('0.5')
    page.wait_for_function("() => +document.querySelector('.satdino-x').dataset.patches < 20")
    page.get_by_label('Opacity').fill('0.9')
    page.wait_for_timeout(300)
    assert len(answers.asked) == n  # both are drawn here
    bar = page.get_by_role('img', name='colours from 0 to 0.2 attention')
    assert bar.is_visible()


def test_estimate_interval_and_truth_are_told(opened):
    page, _ = opened()
    pane = page.get_by_role('group', name='model', exact=True)
    assert '1.72 m/px' in pane.inner_text()  # 1.1 times 200 * 0.5 / 64
    assert '80 % interval 1.25 to 2.34' in pane.inner_text()
    assert 'truth 1.56 m/px: 1.1 times too coarse' in pane.inner_text()


def test_a_plain_model_does_not_answer_and_no_model_says_so(opened):
    page, _ = opened(plain=True)
    words = page.get_by_role('group', name='model', exact=True).inner_text()
    assert 'does not answer GSD' in words and 'a plain ViT has no GSD head' in words
    assert page.get_by_role('radio', name='attention of the GSD token').is_disabled()
    page, answers = opened(model=False, collection=False)
    assert 'No model was given' in page.locator('.satdino-x').inner_text()
    assert not {'model', 'neighbours', 'map'} & set(kinds(answers))
    assert not page.get_by_role('radiogroup', name='overlay').is_visible()


def spot(page, i):
    "Where row `i` of the collection is on the page."
    stage = page.get_by_role('application', name='map of 12 tiles')
    stage.scroll_into_view_if_needed()
    b = stage.bounding_box()
    scale = min(b['width'], b['height']) - 38
    x, y = (i % 4) / 3 - 0.5, (i // 4) / 3 + 1 / 6 - 0.5
    return b['x'] + b['width'] / 2 + x * scale, b['y'] + b['height'] / 2 - y * scale


def test_map_hover_lasso_and_click(opened):
    page, _ = opened()
    page.mouse.move(*spot(page, 6))
    until(page, 'thumb', 6)
    tip = page.locator('.satdino-x-tip')
    assert 'tile 6, 0.5 m/px, <img src=x' in tip.inner_text()
    page.wait_for_function("() => document.querySelector('.satdino-x-tip img')?.naturalWidth > 0")
    (x0, y0), (x1, y1) = spot(page, 1), spot(page, 6)
    page.mouse.move(x0 - 30, y0 + 30)
    page.mouse.down()
    for corner in ((x1 + 30, y0 + 30), (x1 + 30, y1 - 30), (x0 - 30, y1 - 30)):
        page.mouse.move(*corner, steps=6)
    page.mouse.up()
    until(page, 'selected', '1 2 5 6')
    page.get_by_role('button', name='show all points of the map again').click()
    until(page, 'selected', '')
    page.mouse.click(*spot(page, 5))
    until(page, 'place', 'town')  # odd rows are there
    settled(page)
    assert box(page) == [50, 20, 120, 120]
    assert page.evaluate('[pageState.place, pageState.box]') == ['town', [50, 20, 120, 120]]


def test_a_neighbour_is_clicked(opened):
    page, _ = opened()
    assert data(page)['near'] == '3 7 11'
    rows = page.get_by_role('group', name='neighbours').get_by_role('button')
    assert rows.count() == 3
    assert '1 m/px' in rows.nth(1).inner_text() and '0.02 away' in rows.nth(1).inner_text()
    rows.nth(1).click()
    until(page, 'place', 'town')
    settled(page)
    assert box(page) == [70, 20, 120, 120]


def test_a_collection_under_way_is_waited_for_and_nothing_else_waits(opened):
    page, answers = opened(computing=6)
    pane = page.get_by_role('group', name='map')
    pane.get_by_text('of 12 tiles…').wait_for()
    assert 'map' not in data(page) and 'of 12 tiles' in data(page)['pending']
    page.get_by_role('application', name='crop frame').focus()
    page.keyboard.press('ArrowLeft')
    settled(page)  # input and model answer meanwhile
    until(page, 'map', 12)
    until(page, 'near', '3 7 11')
    assert (data(page)['pending'], data(page)['method']) == ('', 'grid')
    until(page, 'here', '0.500 0.500')
    n = len(answers.asked)
    page.wait_for_timeout(1200)
    assert len(answers.asked) == n  # and is no longer asked


def test_a_better_layout_takes_the_place_of_the_first(opened):
    page, answers = opened(layouts=['PCA', 'UMAP'])
    until(page, 'method', 'UMAP')
    asked = [q['have'] for q in answers.asked if q['kind'] == 'map']
    assert asked == ['', 'PCA'] and data(page)['pending'] == ''
    until(page, 'near', '3 7 11')


def test_a_place_that_the_kernel_adds_is_offered(opened):
    page, answers = opened()
    other = dict(answers.setup['places'][1], name='<b>new</b>')
    answers.tiles[other['name']] = answers.tiles['town']
    answers.rows[5] = (other['name'], 5)
    more = dict(answers.setup, places=[*answers.setup['places'], other])
    page.evaluate('setup => setFromKernel({ setup })', more)
    menu = page.get_by_label('ground', exact=True)
    assert menu.locator('option').all_inner_texts() == ['field', 'town', '<b>new</b>']
    assert menu.input_value() == 'field'
    page.mouse.click(*spot(page, 5))
    until(page, 'place', other['name'])
    settled(page)
    assert box(page) == [50, 20, 120, 120] and menu.input_value() == other['name']


def test_keep_square_squares_at_once_and_in_one_message(opened):
    page, _ = opened(square=False, box=[100, 120, 81, 200])
    page.evaluate('window.told = []; setInterval(() => told.push(pageState.box.join(" ")), 1)')
    page.get_by_label('keep square').check()
    settled(page)
    assert page.evaluate('[pageState.square, pageState.box]') == [True, [100, 179, 81, 81]]
    assert set(page.evaluate('told')) <= {'100 120 81 200', '100 179 81 81'}


def test_a_scene_is_rendered_beside(opened):
    page, answers = opened()
    compare = page.get_by_role('radiogroup', name='resampled or rendered')
    compare.get_by_role('radio', name='resampled beside rendered').click()
    until(page, 'rendered', '150 200 200 200')
    assert page.get_by_role('img', name='rendered').is_visible()
    assert [q for q in answers.asked if q['kind'] == 'rendered'][-1]['box'] == START['box']
    page.get_by_label('ground', exact=True).select_option('town')
    until(page, 'overview', 'town')
    assert not compare.is_visible()  # that is no scene
    pane = page.get_by_role('group', name='network input', exact=True)
    assert 'a photograph' in pane.inner_text()  # and why


def test_the_input_is_exact_square_and_a_whole_number_of_times_enlarged(opened):
    page, _ = opened(out=48)
    canvas = page.locator('.satdino-x-pixels').first
    assert canvas.get_attribute('data-size') == '48 48'
    b = canvas.bounding_box()
    assert b['width'] == b['height'] and b['width'] % 48 == 0
    metres, length = (
        page.locator('.satdino-x-bar')
        .nth(1)
        .evaluate('e => [+e.dataset.metres, +e.dataset.length]')
    )
    assert metres / length == pytest.approx(SIDE * GSD / b['width'], rel=1e-6)


def test_typed_numbers_output_and_other_ground(opened):
    page, _ = opened()
    fields = page.get_by_role('group', name='box in source pixels')
    fields.get_by_label('height').fill('100')
    fields.get_by_label('height').press('Enter')
    settled(page)
    assert box(page) == [200, 250, 100, 100]
    page.get_by_label('Output').fill('128')
    page.get_by_text('upsampled: no new detail').first.wait_for()
    page.get_by_label('ground', exact=True).select_option('town')
    until(page, 'overview', 'town')
    settled(page)
    assert box(page) == [90, 140, 120, 120]  # the middle


def test_save_and_code(opened):
    page, answers = opened()
    page.get_by_role('button', name='save the network input as PNG').click()
    page.get_by_text('Saved as field.png').wait_for()
    assert answers.asked[-1] == dict(kind='save', place='field', box=START['box'], out=64)
    page.get_by_role('button', name='copy this state').click()
    code = page.get_by_role('textbox', name='state as code').input_value()
    assert code == "CropState(tiles['field'], box=(150, 200, 200, 200), out=64, name='field')"


def test_errors_are_shown_as_text_and_go_away(opened):
    page, answers = opened()
    answers.broken.add('input')
    page.get_by_role('application', name='crop frame').focus()
    page.keyboard.press('ArrowLeft')
    alert = page.get_by_role('alert')
    alert.get_by_text('input: input <b>failed</b> on purpose').wait_for()
    answers.broken.clear()
    page.keyboard.press('ArrowLeft')
    settled(page)
    assert alert.inner_text() == ''


def test_the_kernel_moves_the_frame(opened):
    page, answers = opened()
    page.evaluate('setFromKernel({ box: [10, 20, 64, 64], sampling: "uniform" })')
    until(page, 'box', '10 20 64 64')
    until(page, 'footprints', 12)
    settled(page)
    assert [q for q in answers.asked if q['kind'] == 'model'][-1]['box'] == [10, 20, 64, 64]


@pytest.mark.parametrize('width', [700, 1216])
def test_nothing_overflows_and_all_controls_have_names(opened, width):
    page, _ = opened(width=width, sampling='both', token='cls')
    wide = page.evaluate('document.documentElement.scrollWidth')
    assert wide <= width
    screenshot(page, f'explorer_{width}')
    for it in page.locator('.satdino-x :is(button, input, select, [tabindex="0"])').all():
        name = it.evaluate('e => e.getAttribute("aria-label") || e.closest("label")?.innerText')
        assert name, it.evaluate('e => e.outerHTML')
    assert not page.locator('.satdino-x img[src="x"]').count()  # names are text
    page.keyboard.press('Tab')
    focused = page.evaluate('getComputedStyle(document.activeElement).outlineStyle')
    assert focused == 'solid'


BARS = """() => [...document.querySelectorAll('.satdino-x-stage')]
  .filter((stage) => stage.offsetWidth && stage.querySelector('.satdino-x-bar'))
  .map((stage) => ({
    stage: stage.getBoundingClientRect().width,
    bar: [...stage.querySelectorAll('.satdino-x-bar rect')].at(-1).getBoundingClientRect().width,
    colours: [...stage.querySelectorAll('.satdino-x-bar rect')].map((r) => r.getAttribute('fill')),
    label: stage.querySelector('.satdino-x-bar text').textContent,
  }))"""


def in_metres(label):
    number, unit = label.split()
    return float(number) * dict(km=1000, m=1, cm=0.01, mm=0.001)[unit]


@pytest.fixture(scope='module')
def grounds(tmp_path_factory):
    "A drawn scene, a picture of 4,000 pixels, and a GeoTIFF in feet."
    import numpy as np
    import torch

    from satdino_nb.data import Tile
    from satdino_nb.engine.places import RasterPlace
    from satdino_nb.engine.rendered import scene_tile

    made = dict(scene=scene_tile('residential', 3, gsd=0.3, size=300))
    y, x = torch.meshgrid(torch.arange(3000), torch.arange(4000), indexing='ij')
    made['large'] = Tile(torch.stack([x // 16, y // 12, (x + y) // 28]).byte(), 1.7)
    try:
        import rasterio
    except ImportError:
        return made
    path = tmp_path_factory.mktemp('ground') / 'feet.tif'
    where = dict(crs='EPSG:2263', transform=rasterio.transform.from_origin(1e6, 2e5, 2.5, 2.5))
    shape = dict(driver='GTiff', count=3, height=500, width=700, dtype='uint8')
    with rasterio.open(path, 'w', **shape, **where) as file:
        file.write(np.random.default_rng(1).integers(1, 256, (3, 500, 700), dtype=np.uint8))
    return made | dict(feet=RasterPlace(path))


@pytest.mark.parametrize('name', ['scene', 'large', 'feet'])
def test_scale_bars_are_as_long_as_they_say(browser, grounds, name):
    "Of overview and crop, in pixels of the screen, for crops of three sizes."
    from satdino_nb.engine.tile_answers import TileAnswers

    if name not in grounds:
        pytest.skip('rasterio is not installed')
    tile = grounds[name]
    height, width = tile.hw
    page = browser[0].context.new_page()
    page.set_viewport_size(dict(width=1216, height=1000))
    answers = TileAnswers({name: tile})
    start = dict(START, place=name, box=[10, 20, 200, 200], square=False)
    plain_page(page, answers, start)
    for box_ in ([10, 20, 200, 200], [0, 0, height, width], [40, 30, 9, 31]):
        page.evaluate('box => setFromKernel({ box })', box_)
        until(page, 'shown', ' '.join(map(str, box_)))
        settled(page)  # the bars are drawn in the next frame
        across = [tile.gsd * width, tile.gsd_at(tuple(box_)) * box_[3]]  # metres of each stage
        bars = page.evaluate(BARS)
        assert len(bars) == 2
        for bar, ground in zip(bars, across):
            metres = in_metres(bar['label'])
            assert f'{metres:.0e}'[0] in '125' and float(f'{metres:.0e}') == pytest.approx(metres)
            assert bar['bar'] == pytest.approx(metres * bar['stage'] / ground, abs=1), bar
            assert 0.1 * bar['stage'] < bar['bar'] < 0.5 * bar['stage']
            assert bar['colours'] == ['#000', '#fff']  # white on black
    page.close()


def test_colours_are_of_okabe_and_ito_and_quantities_are_cividis(opened):
    import matplotlib
    import numpy as np

    from satdino_nb.engine.figures import OKABE_ITO
    from satdino_nb.engine.map_widget import COLOURS, SHAPES

    page, _ = opened(sampling='both')
    names = 'COLOUR, CIVIDIS, KIND_COLOURS, KIND_SHAPES, OUTLINES, cividis'
    module = f'{explorer_js()}\nwindow.colours = {{ {names} }};'
    page.evaluate(
        "text => import(URL.createObjectURL(new Blob([text], { type: 'text/javascript' })))",
        module,
    )
    told = page.evaluate('({ ...colours, cividis: null })')
    assert set(told['COLOUR'].values()) < set(OKABE_ITO) and len(told['COLOUR']) == 4
    assert len(set(told['COLOUR'].values())) == 4
    assert set(told['KIND_COLOURS']) == set(COLOURS) < set(OKABE_ITO)
    assert told['KIND_SHAPES'] == list(SHAPES) and set(SHAPES) <= {'circle', *told['OUTLINES']}
    assert 'star' not in SHAPES  # the crop's own mark
    wanted = 255 * matplotlib.colormaps['cividis'](np.linspace(0, 1, len(told['CIVIDIS'])))[:, :3]
    assert np.abs(np.array(told['CIVIDIS']) - wanted).max() <= 0.51
    shares = np.linspace(0, 1, 101)
    got = page.evaluate('shares => shares.map(colours.cividis)', shares.tolist())
    between = 255 * matplotlib.colormaps['cividis'](shares)[:, :3]
    assert np.abs(np.array(got) - between).max() < 6  # of 255
    dashes = page.locator('.satdino-x-view').evaluate_all(
        "all => all.map((e) => [e.getAttribute('stroke'), e.getAttribute('stroke-dasharray')])"
    )
    ways = {tuple(d) for d in dashes}
    assert len(ways) == 2 == len({dash for _, dash in ways})  # a dash for each colour
    shapes = page.locator('.satdino-x-view-mark').evaluate_all(
        "all => all.map((e) => [e.getAttribute('fill'), e.tagName])"
    )
    assert len({tuple(s) for s in shapes}) == 2 == len({shape for _, shape in shapes})
    legend = page.get_by_role('group', name='classes').locator('> span')
    assert legend.count() == 3 and all(legend.nth(i).inner_text().strip() for i in range(3))
    rows = page.get_by_role('group', name='legend of the sampled views').inner_text()
    assert 'solid' in rows and 'dashed' in rows


@pytest.fixture(scope='module')
def page_file(tmp_path_factory):
    "A saved page with a model and two shipped places."
    from satdino_nb.data import sample_tiles
    from satdino_nb.engine.crop_state import named_tiles
    from satdino_nb.engine.explorer_page import save_page

    answers = Canned(named_tiles(sample_tiles('place')))
    start = dict(place='harbour', box=[100, 100, 200, 200], out=64, sampling='both', token='cls')
    path = tmp_path_factory.mktemp('page') / 'explorer.html'
    return save_page(path, answers, answers.setup, start, seeds=3)


def test_a_saved_page_works_from_a_file_without_kernel_or_network(browser, page_file):
    assert page_file.stat().st_size < 3e6
    page = browser[0].context.new_page()
    complaints, asked = [], []
    page.on('console', lambda m: complaints.append(m.text) if m.type != 'log' else None)
    page.on('pageerror', lambda e: complaints.append(str(e)))
    page.on('request', lambda r: asked.append(r.url))
    page.set_viewport_size(dict(width=1216, height=1000))
    page.goto(page_file.as_uri())
    page.wait_for_function("() => document.querySelector('.satdino-x')?.dataset.shown")
    until(page, 'overlay', 'cls')
    until(page, 'footprints', 24)
    until(page, 'histogram', 0)
    assert int(data(page)['bars']) > 9
    screenshot(page, 'explorer_page')
    gsd = float(data(page)['gsd'])
    overview = page.get_by_role('application', name='crop frame').bounding_box()
    scale = overview['width'] / 640
    x, y = overview['x'] + 200 * scale, overview['y'] + 200 * scale
    drag(page, (x, y), (x + 150 * scale, y + 60 * scale))
    assert box(page)[:2] == pytest.approx([160, 250], abs=2)
    until(page, 'shown', data(page)['box'])
    of = [int(v) for v in data(page)['answered'].split()]
    apart = abs(of[0] + of[2] / 2 - 260) + abs(of[1] + of[3] / 2 - 350)
    assert of != box(page) and apart < 150  # the one that is most alike, framed
    assert page.locator('.satdino-x-answered').is_visible()
    pill = page.locator('.satdino-x-pill').bounding_box()
    x, y = pill['x'] + pill['width'] / 2, pill['y'] + 5
    drag(page, (x, y), (x + 120, y))
    assert float(data(page)['gsd']) > 1.3 * gsd
    page.get_by_role('button', name='draw the views with the next seed').click()
    until(page, 'drawn', 1)
    until(page, 'histogram', 1)
    assert 'Bars: local views of seed 1' in page.locator('.satdino-x').inner_text()
    page.get_by_label('ground', exact=True).select_option('residential')
    until(page, 'overview', 'residential')
    words = page.locator('.satdino-x').inner_text()
    assert 'draws the input from a JPEG' in words and 'drawn in this page' in words
    assert page.get_by_role('button', name='save the network input').is_disabled()
    assert not page.get_by_role('radio', name='likeness of all patches').is_enabled()
    page.close()
    assert not complaints
    assert [a[:5] for a in asked if not a.startswith('blob:')] == ['file:']


def test_the_page_of_the_site_is_drawn_and_dragged(browser, tmp_path, repo, monkeypatch):
    monkeypatch.syspath_prepend(repo / 'docs')
    build = importlib.import_module('build')
    (tmp_path / 'explorer.html').write_text(build.explorer_page())
    page = browser[0].context.new_page()
    complaints = []
    page.on('console', lambda m: complaints.append(m.text) if m.type != 'log' else None)
    page.on('pageerror', lambda e: complaints.append(str(e)))
    page.set_viewport_size(dict(width=1216, height=1000))
    page.goto((tmp_path / 'explorer.html').as_uri())
    page.wait_for_function("() => document.querySelector('.satdino-x')?.dataset.shown")
    until(page, 'overlay', 'gsd')
    until(page, 'place', 'residential')
    page.get_by_role('group', name='model', exact=True).get_by_text('90 % interval').wait_for()
    screenshot(page, 'explorer_site')
    mark = page.get_by_role('slider', name='effective GSD of the crop')
    mark.focus()
    page.keyboard.press('Home')
    smallest = "() => document.querySelector('.satdino-x').dataset.box.endsWith(' 8 8')"
    page.wait_for_function(smallest)
    page.get_by_label('ground', exact=True).select_option('harbour')
    page.get_by_text('does not answer GSD').wait_for()  # boats on open water
    assert not page.get_by_role('radiogroup', name='resampled or rendered').is_visible()
    page.close()
    assert not complaints


def test_no_page_left_the_machine_or_complained(browser):
    _, console, elsewhere = browser
    away = [address for address in elsewhere if not address.startswith('file:')]
    assert not away and not console, (away, console)
