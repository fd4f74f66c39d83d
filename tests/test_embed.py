"""Maps of a collection: what they leave as it was, and that they are the same everywhere."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from satdino_nb.embed import Map, gsd_map_figure, kept_neighbours, map_figure, neighbours, pca_map
from satdino_nb.engine.tiles import sample_tiles

STATE = """
import random, sys, warnings
import numpy as np, torch
def state():
    return (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist(),
            torch.get_num_threads(), list(warnings.filters))
"""
UMAP_STATE = (
    STATE
    + """
import umap  # may set its own filters
from satdino_nb.embed import umap_map
cloud = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
before = state()
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter('always')
    xy = umap_map(cloud, epochs=10).xy
assert state() == before, 'umap_map changed the process'
assert not [w for w in told if 'precomputed_knn' in str(w.message)], told
print(xy.astype('float32').tobytes().hex())
"""
)


def fresh(code):
    "What a new process prints."
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-1500:]
    return found.stdout.strip().splitlines()[-1]


@pytest.mark.slow
def test_umap_leaves_the_process_alone_and_is_the_same_in_another():
    pytest.importorskip('umap')
    assert fresh(UMAP_STATE) == fresh(UMAP_STATE)


@pytest.mark.slow
def test_maps_are_drawn_without_pyplot():
    code = STATE + (
        'from satdino_nb import embed\n'
        'from satdino_nb.engine.tiles import sample_tiles\n'
        'tiles = sample_tiles("test")\n'
        'layout = embed.pca_map(torch.eye(90))\n'
        'walk, kinds = layout.xy[:3], [f"p{k // 2}" for k in range(90)]\n'
        'spread = embed.scale_spread(torch.eye(90), kinds, kinds, resamples=9)\n'
        'before = state()\n'
        'embed.map_figure(layout, tiles)\n'
        'embed.gsd_map_figure(layout, np.array(tiles.gsds))\n'
        'embed.colour_map_figure(layout, np.arange(90.0) - 9, "error", "signed")\n'
        'embed.groups_map_figure(layout, tiles.labels)\n'
        'embed.scale_path_figure(layout, {"a": walk}, (1, 2, 4))\n'
        'embed.spread_figure({"model": spread})\n'
        'assert state() == before and "umap" not in sys.modules\n'
        'print("matplotlib.pyplot" in sys.modules)'
    )
    assert fresh(code) == 'False'


def test_degenerate_collections():
    "Three tiles, an unknown GSD: drawn. All alike, NaN, one tile, another number: named."
    tiles = sample_tiles('test')
    assert pca_map(torch.eye(3)).xy.shape == (3, 2)
    assert gsd_map_figure(Map(np.eye(2), ''), np.array([np.nan, np.nan])).axes
    assert kept_neighbours(torch.eye(3), np.eye(3)[:, :2], k=2) == 1
    for wrong, word in (
        (lambda: pca_map(torch.ones(90, 4)), 'one direction'),
        (lambda: pca_map(torch.full((4, 2), torch.nan)), 'NaN'),
        (lambda: pca_map(torch.ones(1, 2)), 'at least 2 tiles'),
        (lambda: neighbours(torch.ones(3, 2), 3), 'k must be from 1 to 2'),
        (lambda: map_figure(Map(np.eye(2), ''), tiles), 'a map of 2 places for 90 tiles'),
    ):
        with pytest.raises(ValueError, match=word):
            wrong()
