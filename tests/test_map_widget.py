"""The map to walk about in, without a front end: many tiles, the explorer, odd collections."""

import warnings

import numpy as np
import pytest
import torch

pytest.importorskip('anywidget', reason='anywidget is not installed')

from satdino_nb.embed import Map, MapWidget  # noqa: E402
from satdino_nb.engine.tiles import Tiles, sample_tiles  # noqa: E402


def anywhere(n):
    return Map(np.random.default_rng(0).normal(size=(n, 2)), 'anywhere')


def test_a_hundred_thousand_tiles():
    n = 100_000
    tiles = Tiles([f'{i}.png' for i in range(n)], [0.1 + i / n for i in range(n)])
    features = torch.randn(n, 16, generator=torch.Generator().manual_seed(0))
    the_map = MapWidget(anywhere(n), tiles, features)
    assert len(the_map.view.places) == 4 * n and len(the_map.view.codes) == n
    the_map.view.selection = np.arange(0, n, 3, dtype='<u4').tobytes()  # as a lasso does
    assert len(the_map.selected) == len(the_map.subset()) == 33_334
    the_map.chosen = n - 1
    cosine = torch.nn.functional.cosine_similarity(features[-1], features[:-1])
    assert [r['index'] for r in the_map.view.near['rows']] == cosine.topk(6).indices.tolist()
    the_map.state.colour = 'GSD'
    codes = np.frombuffer(the_map.view.codes, np.uint8)
    assert (np.diff(codes.astype(int)) >= 0).all() and codes[-1] == 31


def test_linked_with_the_explorer_both_ways():
    pytest.importorskip('ipywidgets')
    from satdino_nb.explorer import Explorer

    tiles = sample_tiles('test')
    the_map = MapWidget(anywhere(len(tiles)), tiles)
    explorer = Explorer(tiles.subset([0, 1]))
    first = explorer.state.name
    end = the_map.link(explorer)
    the_map.chosen = 7
    shown = explorer.state.tiles[explorer.state.name]
    assert shown.path == tiles.paths[7] and torch.equal(shown.image, tiles[7].image)
    assert explorer.state.name in explorer.tile.name.options  # its menu offers it, too
    assert explorer.state.box[2] <= shown.image.shape[1]
    explorer.state.name = first
    assert the_map.chosen == 0
    end()
    the_map.chosen = 5
    assert explorer.state.name == first


def test_two_files_of_one_name_are_two_tiles(tmp_path):
    from satdino_nb.explorer import Explorer

    source = sample_tiles('test')
    for i, name in enumerate('ab'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'x.jpg').write_bytes(open(source.paths[i], 'rb').read())
    tiles = Tiles([tmp_path / 'a/x.jpg', tmp_path / 'b/x.jpg'], [1.0, 2.0])
    explorer = Explorer(Tiles([source.paths[2]], [3.0]))
    the_map = MapWidget(anywhere(2), tiles)
    the_map.link(explorer)
    for i in (1, 0):
        the_map.chosen = i
        assert explorer.state.tiles[explorer.state.name].path == tiles.paths[i]
        assert explorer.state.now.source_gsd == tiles.gsds[i]


def test_tiles_without_class_gsd_or_names_are_drawn_and_said():
    paths = sample_tiles('test').paths[:4]
    the_map = MapWidget(anywhere(4), Tiles(paths, [None, 0.5, None, 1.0], labels=[0, None, 1, 1]))
    assert [m['label'] for m in the_map.view.marks] == ['0 (1)', '1 (2)', 'unknown (1)']
    assert the_map.still()[:2] == b'\xff\xd8'  # a JPEG picture, of numbers for names
    with pytest.raises(TypeError, match='tiles must be Tiles'):
        MapWidget(anywhere(4), 'folder')
    the_map.state.colour = 'GSD'
    assert np.frombuffer(the_map.view.codes, np.uint8).tolist() == [255, 0, 255, 31]
    the_map.chosen = 0
    assert 'GSD unknown' in the_map.view.near['words']

    class Shown:
        state = type('State', (), dict(tiles={}, name='', observe=lambda *_: None))()

    the_map.link(Shown())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        the_map.chosen = 2
    assert 'GSD is not known' in str(said[0].message) and not Shown.state.tiles


def test_items_of_a_data_set_have_rows_but_no_index_file(tmp_path):
    from satdino_nb.data import open_tiles

    items = [(torch.zeros(3, 32, 32, dtype=torch.uint8), i % 2) for i in range(5)]
    dataset = torch.utils.data.TensorDataset(
        torch.stack([image for image, _ in items]), torch.tensor([y for _, y in items])
    )
    tiles = open_tiles(dataset, gsd=1.0)
    the_map = MapWidget(anywhere(5), tiles)
    the_map.selected = (4, 1)
    assert the_map.selected == (1, 4) and len(the_map.subset()) == 2
    with pytest.raises(ValueError, match='items of a data set, not files'):
        the_map.save_index(tmp_path / 'x.csv')
