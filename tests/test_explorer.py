"""The explorer across its rooms: with no widgets, by a clumsy hand, and when things go wrong.

Callbacks are called here as a front end would call them: an error inside one does not fail a
notebook.
"""

import io
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from satdino_nb.data import Tile, Tiles, sample_tiles
from satdino_nb.engine import crop_panes
from satdino_nb.engine.crop_panes import BoxPane, ModelPane, PicturePane, StripPane
from satdino_nb.engine.crop_pictures import caption
from satdino_nb.engine.crop_state import gsd_histogram, histogram_words
from satdino_nb.engine.embedding import embed_tiles
from satdino_nb.engine.explorer_view import explorer_class, link_view
from satdino_nb.engine.observable_state import ObservableState
from satdino_nb.engine.rendered import scene_tile
from satdino_nb.engine.tile_answers import TileAnswers
from satdino_nb.engine.widgets import Later
from satdino_nb.explorer import CropState, Explorer, named_tiles, network_input, static_picture
from satdino_nb.views import ViewConfig
from satdino_nb.vit import SatViT, ViTConfig, load_satdino

TINY = ViTConfig(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=1)


@pytest.fixture
def tiles():
    "Two tiles of different size and GSD."
    image = torch.randint(0, 256, (3, 90, 130), generator=torch.Generator().manual_seed(0)).byte()
    return {'field': Tile(image, 0.5), 'town': Tile(image[:, :70, :60].clone(), 2.0)}


@pytest.mark.slow
def test_state_and_pictures_need_no_widgets(repo, tmp_path):
    "State and pictures load neither ipywidgets nor traitlets; the widget says what is missing."
    code = """
import sys
sys.modules['ipywidgets'] = None
import torch
from satdino_nb.engine.crop_state import CropState
from satdino_nb.engine.tiles import Tile
tile = Tile(torch.zeros(3, 64, 64, dtype=torch.uint8), 0.5)
state = CropState(tile, out=32)
print(state.gsd, 'traitlets' in sys.modules, 'matplotlib' in sys.modules)
from satdino_nb.explorer import Explorer, static_picture
print(static_picture(state, 64).size)
try:
    Explorer(tile)
except ImportError as e:
    print(e)
"""
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=repo, capture_output=True, text=True, check=True
    )
    numbers, size, refusal = done.stdout.splitlines()
    assert numbers == f'{26 / 32 * 0.5} False False'
    assert size == '(136, 112)'
    assert "pip install 'satdino_nb[lab]'" in refusal


def test_pictures_do_not_change_the_tile(tiles):
    state = CropState(tiles['field'], out=32, sampling='uniform')
    before = tiles['field'].image.clone()
    first = static_picture(state)
    assert static_picture(state) == first
    assert torch.equal(tiles['field'].image, before)
    assert network_input(state.tile, replace(state, out=7).crop).shape == (3, 7, 7)


def test_wherever_the_hand_goes_sliders_and_state_agree(tiles, monkeypatch):
    "Random moves of every control: the box stays inside, panes say what the state says."
    pytest.importorskip('ipywidgets')
    monkeypatch.setattr(Later, 'ask', lambda self, _=None: None)  # debounced: not while it moves
    explorer = Explorer(tiles, out=32, size=96)
    state = explorer.state
    rng = np.random.default_rng(0)
    for step in range(60):
        control = rng.integers(7)
        if control < 4:
            slider = explorer.crop.sliders[control]
            slider.value = int(rng.integers(slider.min, slider.max + 1))
        elif control == 4:
            explorer.crop.square.value = bool(rng.integers(2))
        elif control == 5:
            explorer.tile.name.value = list(tiles)[rng.integers(2)]
        else:
            explorer.sampling.kind.value = ('none', 'uniform', 'random')[rng.integers(3)]
            explorer.sampling.again.click()
            if state.sampling != 'none':
                explorer.sampling.go.value = int(rng.integers(12))
        top, left, height, width = state.box
        assert tuple(s.value for s in explorer.crop.sliders) == state.box, step
        assert 0 <= top <= top + height <= state.now.hw[0] and height >= 8
        assert 0 <= left <= left + width <= state.now.hw[1] and width >= 8
        assert caption(state.now).replace('>', '&gt;') == explorer.picture.caption.value
    notes = (explorer.crop.note, explorer.sampling.note, explorer.strip.note, explorer.save.note)
    assert [n.value for n in notes] == [''] * 4


@pytest.mark.slow
def test_many_changes_leave_no_widgets_behind(tiles):
    "300 changes: as many widgets and axes as before; closed, it leaves none."
    widgets = pytest.importorskip('ipywidgets')
    before = set(widgets.widgets.widget._instances)
    explorer = Explorer(tiles, out=16, size=96, face='sliders')
    assert explorer.widget.children
    living = len(widgets.widgets.widget._instances)
    figure = explorer.strip.figure
    axes = len(figure.axes)
    for i in range(300):
        explorer.state.box = (i % 40, i % 50, 20 + i % 30, 20 + i % 20)
    assert len(widgets.widgets.widget._instances) == living
    assert explorer.strip.figure is figure and len(figure.axes) == axes
    assert len(explorer.picture.shrunk) == 1
    explorer.close()
    assert set(widgets.widgets.widget._instances) <= before


UPDATES = """
import gc, sys
from pathlib import Path
from satdino_nb.data import sample_tiles
from satdino_nb.explorer import Explorer, named_tiles
from satdino_nb.vit import load_satdino

explorer = Explorer(
    named_tiles(sample_tiles('place')), load_satdino('satdino-nano'), face=sys.argv[1]
)
state, answers = explorer.state, explorer.answers
assert explorer.face.view if sys.argv[1] == 'browser' else explorer.widget.children
tokens = ('none', 'cls', 'gsd', 'similarity')


def update(i):
    "A gesture of the browser with all that it asks; sliders draw their panes at once."
    state.box = (i * 7 % 300, i * 11 % 300, 100 + i * 13 % 200, 100 + i * 17 % 200)
    if sys.argv[1] == 'sliders':
        return
    crop = dict(place=state.name, box=list(state.box), out=64)
    drawn = dict(place=state.name, seed=i)
    look = dict(token=tokens[i % 4], layer=i % 6, head=-1, mass=0.0, patch=[i % 8, 3])
    for kind, more in dict(input=crop, model=crop | look, views=drawn, histogram=drawn).items():
        answers.answer(dict(kind=kind, **more))


def held():
    "Megabytes of memory that hold no file."
    gc.collect()
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith('RssAnon')) / 1024


first, more = int(sys.argv[2]), int(sys.argv[3])
for i in range(first):
    update(i)
before = held()
for i in range(first, first + more):
    update(i)
print(held() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='memory is read on Linux')
@pytest.mark.parametrize('face, first, more', [('browser', 100, 300), ('sliders', 80, 80)])
def test_updates_with_a_model_take_no_more_memory(repo, face, first, more):
    "Measured: 0.3 MB in 300 of the browser's, 9 if replies were kept; sliders draw a figure each."
    pytest.importorskip('anywidget')
    command = [sys.executable, '-c', UPDATES, face, str(first), str(more)]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=True)
    assert float(done.stdout.splitlines()[-1]) < 3


def test_each_callback_shows_its_error(tiles):
    "A tile that went bad: every pane says so in its own place, and none raises."
    pytest.importorskip('ipywidgets')
    explorer = Explorer(tiles, SatViT(TINY).eval())
    assert explorer.model  # which needs the tile to say what there is
    explorer.state.sampling = 'uniform'
    explorer.state.tiles['field'] = None
    explorer.picture.update()
    explorer.crop.on_slider(dict(owner=explorer.crop.sliders[0], new=3))
    explorer.sampling.on_view(dict(new=3))
    explorer.strip.draw()
    explorer.model.estimate()
    explorer.save.write()
    places = dict(
        picture=explorer.picture.caption,
        crop=explorer.crop.note,
        sampling=explorer.sampling.note,
        strip=explorer.strip.note,
        model=explorer.model.label,
        save=explorer.save.note,
    )
    for pane, label in places.items():
        assert label.value.startswith('<b>Error:</b> field: expected a satdino_nb.data.Tile'), pane
    explorer.state.tiles['field'] = tiles['field']
    for update in (explorer.crop.update, explorer.sampling.update, explorer.strip.draw):
        update()
    explorer.model.estimate()
    for pane in ('crop', 'sampling', 'strip', 'model'):
        assert 'Error' not in places[pane].value, pane


def test_the_strip_is_shown_at_the_size_it_is_drawn_at(tiles):
    "A picture that the browser stretches by a pixel is blurred."
    pytest.importorskip('ipywidgets')
    strip = StripPane(ObservableState(tiles)).strip
    width, height = Image.open(io.BytesIO(strip.value)).size
    assert (strip.layout.width, strip.layout.height) == (f'{width}px', f'{height}px')


def test_a_model_without_a_gsd_head_is_said_so_in_its_pane(tiles):
    pytest.importorskip('ipywidgets')
    explorer = Explorer(tiles, SatViT(replace(TINY, gsd_token=False)).eval())
    gsd = explorer.state.now.gsd
    assert explorer.model.label.value == (
        f'The model does not answer: this model has no GSD head; effective GSD {gsd:.3g} m/px'
    )


@pytest.mark.parametrize('bad', ['tile.tif', 5, None, torch.zeros(3, 8, 8), [1, 2]])
def test_what_is_not_made_of_tiles_is_refused(bad):
    with pytest.raises(TypeError, match='path|tiles|Tile'):
        named_tiles(bad)


def test_one_tile_several_and_a_data_set(tiles):
    field = tiles['field']
    again = replace(field, path='a/field.png')
    assert list(named_tiles(again)) == ['field']
    assert list(named_tiles([again, again])) == ['field', 'field (1)']
    assert list(named_tiles(t for t in (again, field))) == ['field', 'tile']
    state = ObservableState([again, again], name='field (1)')
    assert state.now.name == 'field (1)' and state.now != replace(state.now, name='field')


DRAWN_BY = {  # what a pane draws with, and which argument of it must not be shared
    'strip': ('gsd_strip', StripPane, StripPane.draw),
    'picture': ('overview_picture', PicturePane, PicturePane.update),
    'model': ('estimate_words', ModelPane, ModelPane.estimate),
}


@pytest.mark.parametrize('pane', DRAWN_BY)
def test_two_threads_never_draw_in_one_pane_at_once(tiles, monkeypatch, pane):
    "Messages of a widget come in on several threads; what is drawn last is of the newest state."
    pytest.importorskip('ipywidgets')
    name, kind, draw = DRAWN_BY[pane]
    real, inside, most, seen = getattr(crop_panes, name), [], [], []

    def slow(*args, **options):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.03)
        seen.append(args)
        inside.pop()
        return real(*args, **options)

    state = ObservableState(tiles, out=16)
    model = SatViT(TINY).eval()
    more = [TileAnswers(state.tiles, model)] if pane == 'model' else []
    it = kind(state, *more)
    state.unobserve_all()
    monkeypatch.setattr(crop_panes, name, slow)
    boxes = [(n, n, 20 + n, 20 + n) for n in range(6)]

    def gesture(box):
        state.box = box
        draw(it)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(gesture, boxes))
    assert seen and max(most) == 1
    draw(it)
    shown = it.drawn if pane == 'picture' else None
    assert shown is None or shown == state.now


def test_later_from_many_threads_forgets_nothing_and_runs_no_request_twice():
    done = []
    later = Later(lambda: done.append(1), 0)
    with ThreadPoolExecutor(8) as pool:  # threads without a loop: at once
        list(pool.map(later.ask, range(40)))
    assert len(done) == 40
    later.flush()
    assert len(done) == 40


def test_keep_square_squares_when_it_is_ticked_from_either_side(tiles):
    pytest.importorskip('ipywidgets')
    state = ObservableState(tiles, box=(10, 20, 31, 60))
    assert state.square and state.box == (10, 20, 31, 60)  # what a program sets stays
    pane = BoxPane(state)
    pane.square.value = False
    pane.sliders[3].value = 50
    assert state.box == (10, 25, 31, 50) and not state.square
    pane.square.value = True
    assert state.box == (10, 34, 31, 31) and pane.sliders[3].value == 31
    pytest.importorskip('anywidget')
    view = explorer_class()()
    state.square = False
    state.box = (10, 20, 31, 60)
    link_view(view, state, {'place': 'name'})
    view.set_state(dict(square=True, box=[10, 34, 31, 31]))  # as the browser sends it
    assert state.box == (10, 34, 31, 31) and view.box == [10, 34, 31, 31]
    view.square = False
    state.box = (10, 20, 31, 60)
    view.square = True
    assert state.box == (10, 34, 31, 31) and view.box == [10, 34, 31, 31]


@pytest.fixture(scope='module')
def nano():
    return load_satdino('satdino-nano', verbose=False)


@pytest.fixture
def no_umap(monkeypatch):
    "Compiling it takes a quarter of a minute; its map is tested in its room."

    def absent(*_, **__):
        raise ImportError('left out')

    monkeypatch.setattr('satdino_nb.engine.collection.umap_map', absent)


ASK = dict(kind='model', token='none', layer=-1, head=-1, mass=0.0, patch=[])
CROP = dict(place='residential', box=[192, 192, 256, 256], out=64)


def test_an_index_of_satdino_embed_is_a_collection_and_another_models_is_none(
    nano, tmp_path, no_umap
):
    pytest.importorskip('ipywidgets')
    tests = sample_tiles('test').subset(range(0, 90, 5))
    places = named_tiles(sample_tiles('place'))
    path = tmp_path / 'tests.npz'
    embed_tiles(tests, path, 'satdino-nano')
    answers = Explorer(places, nano, collection=path).answers
    assert answers.collection.vectors is not None  # nothing to compute
    fresh = Explorer(places, nano, collection=tests).answers
    assert fresh.collection.flush(300)
    one, other = (
        a.answer(dict(kind='neighbours', k=5, **CROP))[0]['rows'] for a in (answers, fresh)
    )
    assert [(r['i'], r['label'], r['gsd']) for r in one] == [
        (r['i'], r['label'], r['gsd']) for r in other
    ]
    assert [r['distance'] for r in one] == sorted(r['distance'] for r in one)
    stranger = SatViT(nano.config, nano.normalisation).eval()
    with pytest.raises(ValueError, match='tests.npz is of satdino-nano .* cannot be compared'):
        Explorer(places, stranger, collection=path)
    with pytest.raises(ValueError, match='give the explorer that model'):
        Explorer(places, collection=path)
    narrow = Explorer(places, SatViT(TINY).eval(), collection=tests).answers
    narrow.collection.vectors = answers.collection.vectors  # an index without a note
    with pytest.raises(ValueError, match='128 features .* of two models'):
        narrow.answer(dict(kind='neighbours', k=5, **CROP | dict(out=16)))


def test_the_widget_is_of_use_while_a_collection_is_computed_and_when_it_fails(tiles, tmp_path):
    pytest.importorskip('anywidget')
    (tmp_path / 'bad.png').write_text('no picture')
    broken = Tiles([tmp_path / 'bad.png'] * 3, [1.0] * 3)
    explorer = Explorer(tiles, SatViT(TINY).eval(), collection=broken)
    answers, collection = explorer.answers, explorer.answers.collection
    crop = dict(place='field', box=[0, 0, 40, 40], out=16)
    with answers.network:  # the model is busy: the collection waits, the input does not
        assert answers.answer(dict(kind='input', **crop))[1]
        reply, pictures = answers.answer(dict(kind='neighbours', k=3, **crop))
        assert not pictures and (reply['pending'] or collection.trouble)
    assert collection.flush(60)
    for kind, more in (('map', {}), ('neighbours', dict(k=3, **crop))):
        with pytest.raises(ValueError, match='bad.png'):
            answers.answer(dict(kind=kind, **more))
    question = dict(kind='model', token='cls', layer=-1, head=-1, mass=0.0, patch=[])
    assert answers.answer(question | crop)[1]
    assert explorer.still().size[1] > 200  # the picture, without a collection
    explorer.close()


def test_the_sliders_tell_interval_or_refusal_and_the_neighbours(nano, no_umap):
    "As text, without anywidget; a plain model answers no GSD, and its neighbours are told."
    pytest.importorskip('ipywidgets')
    places, tests = named_tiles(sample_tiles('place')), sample_tiles('test')
    few = tests.subset(range(0, 90, 9))
    explorer = Explorer(places, nano, collection=few, face='sliders')
    assert explorer.widget and explorer.near.box in explorer.widget.children
    explorer.state.name = 'residential'
    explorer.state.box = (192, 192, 256, 256)
    explorer.flush()
    told, _ = explorer.answers.answer(ASK | CROP)
    low, high = (f'{told["estimate"][end]:.3g}' for end in ('low', 'high'))
    assert f'(90 % interval {low} to {high}), effective GSD' in explorer.model.label.value
    rows, _ = explorer.answers.answer(dict(kind='neighbours', k=6, **CROP))
    lines = explorer.near.words.value.split('<br>')
    assert len(lines) == 7
    for n, (line, row) in enumerate(zip(lines, rows['rows']), 1):
        assert line.startswith(f'{n}. {row["name"]}') and f'{row["distance"]:.3f} away' in line
    explorer.state.box = (192, 192, 30, 30)
    explorer.flush()
    assert 'does not answer: 30 px are enlarged to 64' in explorer.model.label.value
    assert explorer.near.words.value.split('<br>')[:6] != lines[:6]
    explorer.close()
    plain = Explorer(places, SatViT(replace(TINY, gsd_token=False)).eval(), few, face='sliders')
    assert plain.widget
    plain.flush()
    assert 'does not answer: this model has no GSD head' in plain.model.label.value
    assert plain.near.words.value.startswith('1. ')
    plain.close()


def test_sliders_of_a_collection_under_way_say_so_and_then_the_neighbours(tiles, no_umap):
    pytest.importorskip('ipywidgets')
    few = sample_tiles('test').subset(range(0, 90, 9))
    explorer = Explorer(tiles, SatViT(TINY).eval(), collection=few, face='sliders')
    with explorer.answers.network:  # the model is busy: the collection waits
        near = explorer.near
        assert near.words.value.endswith('…') and near.waiting
        waiting = near.waiting
    waiting.join(60)
    assert near.words.value.startswith('1. ')
    explorer.close()


def test_histograms_of_a_draw_are_of_its_seed_and_share_their_segments(tiles):
    "State arithmetic: uniform sampling has a view in every segment, random sampling gaps."
    state = CropState(tiles['field'], seed=3)
    edges, counts = gsd_histogram(state)
    assert (edges, counts) == gsd_histogram(state)
    assert counts != gsd_histogram(replace(state, seed=4))[1]
    squares = np.square(edges)
    assert np.allclose(np.diff(squares), np.diff(squares)[0])  # the paper's segments, by area
    whole = 0.5 * np.sqrt(90 * 130) / 96
    assert (edges[0], edges[-1]) == pytest.approx((whole * 0.05**0.5, whole * 0.25**0.5))
    draws = [gsd_histogram(replace(state, seed=s))[1] for s in range(20)]
    filled = {how: np.mean([np.count_nonzero(d[how]) for d in draws]) for how in counts}
    assert filled['uniform'] > 8.5 and filled['random'] < 7.5  # of ten; expected: 6.5 at random
    assert all(sum(d[how]) == 10 for d in draws for how in counts)
    words = (
        f'local views of seed 3 in 10 segments: uniform in {np.count_nonzero(counts["uniform"])}'
    )
    assert histogram_words(counts, 3).startswith(words)
    no_local = TileAnswers(tiles, config=ViewConfig(n_local=0))
    told, _ = no_local.answer(dict(kind='histogram', place='field', seed=0))
    assert told['edges'] == [] and 'no local views' in told['words']


def test_what_is_rendered_is_the_ground_of_the_crop_and_has_what_it_lacks(nano):
    "A tile drawn by its own recipe; the crop is enlarged four times."
    pytest.importorskip('ipywidgets')
    field = scene_tile('parking', 11, gsd=0.6, size=240)
    answers = Explorer({'mine': field}).answers
    assert answers.setup['places'][0]['scene']
    low = lambda x: torch.nn.functional.avg_pool2d(x, 16)
    detail = lambda x: float((x[:, 1:] - x[:, :-1]).std())
    for box, out, ratio in (((40, 60, 40, 40), 160, 0.7), ((0, 0, 240, 240), 80, 1.1)):
        ask = dict(place='mine', box=list(box), out=out)
        replies = [answers.answer(dict(kind=k, **ask)) for k in ('input', 'rendered')]
        pair = [np.frombuffer(raw, np.uint8).reshape(*r['hw'], 3) for r, (raw,) in replies]
        given, drawn = (torch.tensor(p).permute(2, 0, 1).float() for p in pair)
        assert given.shape == drawn.shape == (3, out, out)
        same = torch.corrcoef(torch.stack([low(given).flatten(), low(drawn).flatten()]))[0, 1]
        assert same > 0.97, (box, same)
        assert detail(given) < ratio * detail(drawn)


def test_the_estimate_has_an_interval_or_there_is_none(nano):
    pytest.importorskip('ipywidgets')
    answers = Explorer(named_tiles(sample_tiles('place')), nano).answers
    ask = ASK
    told, _ = answers.answer(ask | CROP)
    estimate = told['estimate']
    assert estimate['low'] < estimate['gsd'] < estimate['high'] and estimate['level'] == 0.9
    assert estimate['low'] < told['truth'] < estimate['high']
    told, _ = answers.answer(ask | CROP | dict(box=[192, 192, 30, 30]))
    assert told['estimate'] is None and '30 px are enlarged' in told['why']
    told, _ = answers.answer(ask | CROP | dict(out=96))
    assert told['estimate']['low'] is None and 'an output of 64 px' in told['why']
    other = Explorer(named_tiles(sample_tiles('place')), SatViT(nano.config, nano.normalisation))
    assert other.answers.reader is None
