"""The explorer across its rooms: with no widgets, by a clumsy hand, and when things go wrong.

Callbacks are called here as a front end would call them: an error inside one does not fail a
notebook.
"""

import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from satdino_nb.data import Tile
from satdino_nb.engine.crop_panes import StripPane
from satdino_nb.engine.crop_pictures import caption
from satdino_nb.engine.observable_state import ObservableState
from satdino_nb.engine.widgets import Later
from satdino_nb.explorer import CropState, Explorer, named_tiles, network_input, static_picture
from satdino_nb.vit import SatViT, ViTConfig

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


def test_each_callback_shows_its_error(tiles):
    "A tile that went bad: every pane says so in its own place, and none raises."
    pytest.importorskip('ipywidgets')
    explorer = Explorer(tiles, SatViT(TINY).eval())
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
    assert explorer.model.label.value == (
        '<b>Error:</b> this model has no GSD token, so it cannot estimate GSD'
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
