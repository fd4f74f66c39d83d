"""Maps: what is there at once, what is kept, what is shown in the gallery."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from satdino_nb.embed import (
    Map,
    colour_map_figure,
    find_clusters,
    map_figure,
    map_quality,
    maps_in_turn,
    neighbours,
    pca_map,
    scale_path_figure,
    scale_series,
    scale_spread,
    spread_figure,
    tsne_map,
    umap_map,
)
from satdino_nb.engine import layouts, map_figures
from satdino_nb.engine.datasets import DatasetTiles

REPO = Path(__file__).resolve().parents[1]
# figures of a training run and of a report, which lessons 06 and 07 show
ELSEWHERE = {'health_figure', 'gsd_figure'}


def figure_functions():
    "Public functions of the package that make a matplotlib figure, and their modules."
    for path in sorted((REPO / 'satdino_nb').rglob('*.py')):
        for f in ast.parse(path.read_text()).body:
            if isinstance(f, ast.FunctionDef) and f.name.endswith('_figure'):
                yield path.stem, f.name


def test_gallery_shows_every_figure():
    book = json.loads((REPO / 'nbs' / 'gallery.ipynb').read_text())
    shown = '\n'.join(''.join(c['source']) for c in book['cells'] if c['cell_type'] == 'code')
    found = list(figure_functions())
    assert len(found) > 12  # it did look
    missing = [f'{m}.{n}' for m, n in found if f'{m}.{n}(' not in shown and n not in ELSEWHERE]
    assert missing == [], 'give each a cell in nbs/gallery.ipynb: two words, and the call'


def test_the_colour_bar_of_signed_numbers():
    "It begins at 0 and has an arrow for the largest; a linear one has the ends of the numbers."
    layout = layouts.Map(np.arange(8.0).reshape(4, 2), '')
    for scale, low, extend in (('signed', 0, 'max'), ('linear', -2, 'neither')):
        figure = map_figures.colour_map_figure(layout, [0.5, -2.0, 1.0, -1.0], 'error', scale)
        drawn = [m for m in figure.axes[0].collections if m.colorbar]
        assert {m.get_clim()[0] for m in drawn} == {low}
        assert [m.colorbar.extend for m in drawn] == [extend]


@pytest.mark.slow
def test_pca_is_given_before_umap_is_even_imported():
    code = (
        'import sys, torch\n'
        'from satdino_nb.embed import maps_in_turn\n'
        'name, layout = next(maps_in_turn(torch.eye(20), ("PCA", "UMAP", "t-SNE")))\n'
        'print(name, len(layout.xy), "umap" in sys.modules)'
    )
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert found.stdout.split() == ['PCA', '20', 'False'], found.stderr[-1500:]


@pytest.mark.slow
def test_a_map_in_a_folder_is_not_made_again(tmp_path, monkeypatch):
    "Neither in this process nor, as the memory is emptied, in a later one; others are."
    pytest.importorskip('umap')
    made = []

    def lay_out(umap, features, **how):
        made.append(how)
        return layouts.measured(features, np.eye(len(features))[:, :2], 'quick')

    monkeypatch.setattr(layouts, 'lay_out_umap', lay_out)
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    first = umap_map(x, cache=tmp_path)
    layouts.forget_maps()
    again = umap_map(x.clone(), cache=tmp_path)
    assert len(made) == 1 and (again.xy == first.xy).all() and again.quality == first.quality
    umap_map(x, seed=1, cache=tmp_path)
    umap_map(x + 1e-3, cache=tmp_path)
    assert len(made) == 3 and len(list(tmp_path.iterdir())) == 3
    layouts.forget_maps()


def test_memory_of_maps_has_an_end():
    layouts.forget_maps()
    for k in range(layouts.MOST_MAPS + 5):
        layouts.kept_map(str(k), lambda: Map(np.zeros((2, 2)), ''))
    assert len(layouts.MAPS) == layouts.MOST_MAPS and '4' not in layouts.MAPS
    layouts.forget_maps()


@pytest.mark.parametrize('hw', [(1, 1), (3, 40), (64, 64)])
def test_constant_and_odd_pictures_are_drawn(hw):
    pictures = [(torch.full((3, *hw), v, dtype=torch.uint8), v % 2) for v in (0, 7, 255)]
    tiles = DatasetTiles(pictures, classes=('a', 'b'), labels=[y for _, y in pictures])
    fig = map_figure(Map(np.eye(3)[:, :2], 'three'), tiles, size=4)
    FigureCanvasAgg(fig).draw()
    assert len(fig.axes[0].images) == 3


def test_duplicates_and_few_tiles_have_maps():
    same = torch.ones(40, 6)
    same[:3] = torch.eye(6)[:3]
    for name, layout in maps_in_turn(same, ('PCA', 't-SNE')):
        assert np.isfinite(layout.xy).all(), name
    with pytest.raises(ValueError, match='40 rows of one direction'):
        next(maps_in_turn(torch.ones(40, 6)))


def test_what_is_no_feature_tile_or_place_is_refused_in_one_line(tmp_path):
    page = Map(np.eye(3)[:, :2], 'three')
    x = torch.eye(3)
    makers = (pca_map, umap_map, tsne_map, lambda f: next(maps_in_turn(f)))
    makers += (lambda f: neighbours(f, 1), lambda f: find_clusters(f, 2))
    makers += (lambda f: map_quality(f, page.xy), lambda f: scale_spread(f, 'aab', 'aab'))
    for wrong in ('features.pt', tmp_path, np.eye(3)):
        for make in makers:
            with pytest.raises(TypeError, match='features must be a tensor') as e:
                make(wrong)
            assert '\n' not in str(e.value)
    for wrong in ('folder', tmp_path):
        with pytest.raises(TypeError, match='tiles must be Tiles'):
            map_figure(page, wrong)
    for ask, words in (
        (lambda: pca_map(x[:1]), '1 row'),
        (lambda: scale_series('harbour', (1.0,)), 'a list of land uses'),
        (lambda: scale_series(('harbour',), (0.0, 1.0), size=8), '0'),
        (lambda: scale_spread(x, 'abc', 'aab'), 'one picture alone'),
        (lambda: scale_spread(x, 'aaa', 'aab'), 'one place of two classes'),
        (lambda: scale_spread(x, 'aab', 'aa'), '2 classes'),
        (lambda: scale_spread(torch.ones(4, 3), 'aabb', 'aabb'), 'collapsed'),
        (lambda: scale_path_figure(page, {'a': np.zeros((2, 2))}, (1.0, 0.0)), '0'),
        (lambda: scale_path_figure(page, {'a': np.full((2, 2), np.nan)}, (1.0, 2.0)), 'finite'),
        (lambda: spread_figure({}), 'no spreads'),
    ):
        with pytest.raises(ValueError, match=words) as e:
            ask()
        assert '\n' not in str(e.value)


def test_classes_without_names_are_numbers():
    pictures = [(torch.full((3, 8, 8), v, dtype=torch.uint8), v) for v in range(3)]
    tiles = DatasetTiles(pictures, classes=(), labels=[0, 7, None])
    legend = map_figure(Map(np.eye(3)[:, :2], 'three'), tiles, size=4).axes[0].get_legend()
    assert [t.get_text() for t in legend.get_texts()] == ['0', '7', 'no class']


def test_quality_of_a_thousand_is_that_of_all():
    x = torch.randn(2500, 8, generator=torch.Generator().manual_seed(0))
    whole, some = (map_quality(x, x[:, :2].numpy(), most=n) for n in (2500, 1000))
    assert abs(whole.trustworthiness - some.trustworthiness) < 0.01
    assert abs(whole.kept - some.kept) < 0.01 and 'of 1000 of 2500 tiles' in str(some)


def test_captions_say_method_parameters_seed_and_what_distances_are_not():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    for name, layout in maps_in_turn(x, ('PCA', 't-SNE'), seed=3):
        text = str(layout)
        assert name in text and 'seed' in text and layouts.NOT_METRIC in text
        for word in ('trustworthiness', 'continuity', 'neighbours kept'):
            assert word in text
        drawn = colour_map_figure(layout, np.arange(40.0), 'number').axes[0].get_xlabel()
        assert ' '.join(drawn.split()) == ' '.join(text.split())  # wrapped, otherwise as it is


def test_groups_differ_in_grey():
    "Quantities are ordered by lightness; groups have a marker each."
    from matplotlib import colormaps

    light = colormaps['cividis'](np.linspace(0, 1, 64))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > 0).all()
    assert len(set(map_figures.MARKS)) == len(map_figures.OKABE_ITO) == 8
