"""A raster file as one place of the explorer: in little memory, exact, the GSD of each crop."""

import os
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from exploring import big_file
from PIL import Image

from satdino_nb.data import Tile
from satdino_nb.engine import places
from satdino_nb.engine.crop_pictures import STRIP, caption, network_input, save_view
from satdino_nb.engine.crop_state import CropState, view_options
from satdino_nb.engine.georeference import metres_per_degree
from satdino_nb.engine.places import OVERVIEW, RasterPlace, open_places
from satdino_nb.engine.rasters import raster_pixels
from satdino_nb.engine.tile_answers import TileAnswers
from satdino_nb.explorer import Explorer
from satdino_nb.gsd import mean_gsd
from satdino_nb.views import resize_matrix

rasterio = pytest.importorskip('rasterio')


def written(path, values, crs='EPSG:32636', corner=(3e5, 1e5), step=0.5, **kw):
    "A raster file of `values` (bands, H, W)."
    shape = dict(zip(('count', 'height', 'width'), values.shape), dtype=values.dtype)
    where = rasterio.transform.from_origin(*corner, step, step)
    with rasterio.open(path, 'w', driver='GTiff', crs=crs, transform=where, **shape, **kw) as out:
        out.write(values)
    return path


@pytest.fixture
def ground():
    "Pixels of more than one strip, uint8 (3, 1400, 1100)."
    assert 1400 * 1100 > STRIP
    return np.random.default_rng(0).integers(0, 256, (3, 1400, 1100), dtype=np.uint8)


MEASURED = """
import sys
from pathlib import Path
from threading import Event, Thread

from satdino_nb.engine.crop_pictures import static_picture
from satdino_nb.engine.crop_state import CropState
from satdino_nb.engine.places import RasterPlace
from satdino_nb.engine.tile_answers import TileAnswers


def held():
    "Megabytes of memory that hold no file."
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith('RssAnon')) / 1024


def growth(task):
    "Megabytes that the largest memory, seen every 2 ms, lies above the one before."
    seen, done = [held()], Event()

    def look():
        while not done.wait(0.002):
            seen.append(held())

    watch = Thread(target=look)
    watch.start()
    task()
    done.set()
    watch.join()
    return max(seen) - seen[0]


def explore(path, n):
    answers = TileAnswers({'a': RasterPlace(path)})
    answers.answer(dict(kind='overview', place='a', most=1024))
    hw = answers.tiles['a'].hw
    for i in range(n):
        side = 64 + i * (min(hw) - 64) // n
        box = [i * (hw[0] - side) // n, i * (hw[1] - side) // n, side, side]
        answers.answer(dict(kind='input', place='a', box=box, out=224))
    answers.answer(dict(kind='input', place='a', box=[0, 0, *hw], out=224))
    static_picture(CropState(answers.tiles['a'], (0, 0, *hw), sampling='uniform'))


explore(sys.argv[1], 4)
print(growth(lambda: explore(sys.argv[2], 6)))
print(growth(lambda: RasterPlace(sys.argv[2]).window((0, 0, 10_000, 10_000))))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='memory is read on Linux')
def test_ten_thousand_pixels_stay_in_their_file(tmp_path, ground, repo):
    "Overview and crops of all sizes up to the whole: below 180 MB; all in memory takes over 600."
    small = written(tmp_path / 'small.tif', ground)
    big = big_file(tmp_path / 'big.tif')
    command = [sys.executable, '-c', MEASURED, str(small), str(big)]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    explored, whole = map(float, done.stdout.split())
    assert explored < 180 and whole > 600


@pytest.mark.parametrize('kind', ['plain', 'deep', 'mirrored'])
def test_the_input_is_that_of_the_file_read_whole(tmp_path, ground, kind):
    "Bit for bit, for crops of less and of more than a strip, shrunk and enlarged."
    how = dict(tiled=True, blockxsize=256, blockysize=256)
    if kind == 'deep':  # percentiles of a window would differ from those of the file
        values = (ground.astype(np.uint16) * np.linspace(1, 40, 1100)).astype(np.uint16)
        values = np.concatenate([values, values[:1] // 2])
        values[:, :100, :90] = 0
        path = written(tmp_path / 'a.tif', values, nodata=0, **how)
        with rasterio.open(path, 'r+') as file:
            file.descriptions = ('B02', 'B03', 'B04', 'B08')
    else:
        path = written(tmp_path / 'a.tif', ground, **how)
    if kind == 'mirrored':
        with rasterio.open(path, 'r+') as file:
            file.transform = rasterio.Affine(0.5, 0, 3e5, 0, 0.5, 1e5)
    place = RasterPlace(path)
    assert kind != 'deep' or place.reading.bands == (3, 2, 1)
    whole = Tile(raster_pixels(path, place.reading, None), 0.5, path=str(path))
    state = CropState(place, out=64)
    for box in ((0, 0, 1400, 1100), (30, 40, 1200, 1000), (700, 3, 40, 90), (5, 6, 1395, 1094)):
        crop = replace(state, box=box).crop
        read = network_input(place, crop)
        assert torch.equal(read, network_input(whole, crop))
        rows, columns = (
            resize_matrix(torch.tensor(start), torch.tensor(n), 64, size)
            for start, n, size in zip(box, box[2:], place.hw)
        )
        once = (rows @ (whole.image / 255) @ columns.T).clamp(0, 1)
        assert torch.allclose(read, once, atol=2e-5)
    assert place.overview.shape == (3, OVERVIEW, round(1100 * OVERVIEW / 1400))


def test_a_crop_has_the_gsd_of_where_it_lies(tmp_path):
    "In degrees: state, caption, views, and the picture that is saved."
    values = np.random.default_rng(1).integers(1, 256, (3, 400, 100), dtype=np.uint8)
    degrees = dict(crs='EPSG:4326', corner=(30.0, 60.0), step=0.05)
    place = RasterPlace(written(tmp_path / 'degrees.tif', values, **degrees))
    found = []
    for top, latitude in ((0, 59.0), (360, 41.0)):
        truth = mean_gsd(*(metre * 0.05 for metre in metres_per_degree(latitude)))
        state = CropState(place, (top, 10, 40, 40), out=20)
        assert state.source_gsd == pytest.approx(truth, rel=1e-9)
        assert state.gsd == pytest.approx(truth * 2, rel=1e-9)
        assert f'effective GSD {truth * 2:.3g} m/px' in caption(state)
        assert f'_{truth * 2:.4g}m.png' in save_view(state, tmp_path).name
        found.append(truth)
    assert found[1] > 1.25 * found[0]
    state = replace(state, sampling='random')
    gsds = [state.gsd_of(view) for view in state.views]
    for view, gsd, (words, _) in zip(state.views, gsds, view_options(state)[1:]):
        there = place.gsd_at((int(view.top), view.left, int(view.height), view.width))
        assert gsd == view.gsd(there) and f'{gsd:.3g} m/px' in words
    answers = TileAnswers({'a': place})
    told = answers.setup['places'][0]
    assert told['gsd'] == place.gsd and len(told['gsds']) == 17
    drawn, _ = answers.answer(dict(kind='views', place='a', seed=0))
    assert [view['gsd'] for view in drawn['random']] == gsds


def test_the_overview_is_read_once(tmp_path, ground, monkeypatch):
    "50 moves in both faces: one grid of the whole file, otherwise windows no larger than asked."
    pytest.importorskip('ipywidgets')
    explorer = Explorer(written(tmp_path / 'a.tif', ground), out=32, size=96)
    read = []

    def counted(src, how, box=None, out_hw=None):
        read.append(box)
        return original(src, how, box, out_hw)

    original = places.read_window
    monkeypatch.setattr(places, 'read_window', counted)
    assert explorer.picture.overview.value
    for i in range(50):
        explorer.state.box = (i * 10, i * 9, 200, 200)
        box = list(explorer.state.box)
        explorer.answers.answer(dict(kind='input', place='a', box=box, out=32))
        explorer.answers.answer(dict(kind='overview', place='a', most=1024))
    assert read.count(None) == 1
    windows = [box for box in read if box]
    assert len(windows) >= 50 and all(box[2:] == (200, 200) for box in windows[1:])
    explorer.close()


def test_a_page_and_a_collection_of_a_raster(tmp_path, ground):
    "`save_html` stays small; a tile of a collection of the same file is gone to in the raster."
    pytest.importorskip('ipywidgets')
    path = written(tmp_path / 'survey.tif', ground)
    explorer = Explorer(path, out=32, collection=path)
    assert list(explorer.state.tiles) == ['survey']
    page = explorer.save_html(tmp_path / 'page.html')
    assert page.stat().st_size < 3e6 and 'survey' in page.read_text(encoding='utf-8')
    collection = explorer.answers.collection
    there, _ = explorer.answers.answer(dict(kind='place_of', i=7))
    assert there['name'] == 'survey' and tuple(there['box']) == collection.tiles.boxes[7]
    window = explorer.state.tiles['survey'].window(there['box'])
    assert torch.equal(window, collection.tiles[7].image)


def test_a_file_larger_than_pillow_likes_is_opened_without_a_warning(tmp_path, ground, monkeypatch):
    "Only its header is read by Pillow."
    path = written(tmp_path / 'a.tif', ground)
    monkeypatch.setattr('PIL.Image.MAX_IMAGE_PIXELS', 1_000_000)
    with warnings.catch_warnings():
        warnings.simplefilter('error', Image.DecompressionBombWarning)
        assert isinstance(open_places(path)[0], RasterPlace)
        with pytest.raises(Image.DecompressionBombWarning):
            Image.open(path)


def test_what_is_no_place_is_refused_by_name(tmp_path, ground):
    pytest.importorskip('ipywidgets')
    good = written(tmp_path / 'good.tif', ground, compress='deflate')
    broken = tmp_path / 'broken.tif'
    broken.write_bytes(good.read_bytes()[:2_000_000])
    nowhere = tmp_path / 'nowhere.tif'
    nowhere.write_bytes(b'II*\0 and then nothing')
    bare = written(tmp_path / 'bare.tif', ground[:, :90, :90], crs=None)
    for path, words in ((broken, 'not readable'), (nowhere, 'not readable'), (bare, 'gsd=')):
        with pytest.raises((ValueError, OSError)) as said:
            Explorer(path, out=32)
        assert str(path) in str(said.value) and words in str(said.value)
        assert '\n' not in str(said.value)
    assert Explorer(bare, out=32, gsd=0.5).state.now.source_gsd == 0.5
