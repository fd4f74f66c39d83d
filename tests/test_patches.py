"""Colours, segments and matches of patches: any backbone, poor input, exact geometry."""

import random
import warnings

import numpy as np
import pytest
import timm
import torch
from matplotlib.figure import Figure

from satdino_nb.engine.input_pictures import patch_features
from satdino_nb.engine.matches import GroundView, Matches, match_errors
from satdino_nb.engine.patches import patch_foreground
from satdino_nb.engine.segmentation import raw_pixels
from satdino_nb.engine.tiles import Tile, sample_tiles
from satdino_nb.patches import (
    colours_figure,
    match_shares,
    matches_figure,
    mutual_matches,
    patch_basis,
    patch_figure,
    patch_pca,
    patch_segments,
    patch_similarity,
    place_views,
    segments_figure,
)
from satdino_nb.vit import as_backbone, load_satdino

FLAT = Tile(torch.full((3, 64, 64), 7, dtype=torch.uint8))


@pytest.fixture(scope='module')
def model():
    return load_satdino('satdino-nano')


def small(**kw):
    "A small ViT of timm for pictures of 32 px in patches of 16."
    net = timm.create_model('vit_tiny_patch16_224', img_size=32, depth=1, num_classes=0, **kw)
    return as_backbone(net)


def images_of(fig):
    return [np.asarray(i.get_array(), float) for ax in fig.axes for i in ax.images]


def test_figures_leave_the_process_alone_and_pyplot_out(model):
    import matplotlib.pyplot as plt
    import sklearn.cluster  # noqa: F401  (its import sets warning filters, once a process)

    views = place_views('river', 1, (1.0, 1.5), size=32)
    a, b = (patch_features(model, v.image[None])[0] for v in views)

    def state():
        numbers = str(np.random.get_state()), torch.get_rng_state().tolist()
        return *numbers, random.getstate(), list(warnings.filters), torch.is_grad_enabled()

    before = state()
    assert isinstance(patch_figure(model, FLAT, 64), Figure)
    assert isinstance(colours_figure(model, [FLAT, FLAT], 64), Figure)
    for method in ('kmeans', 'spectral'):
        segments = patch_segments([a, b], 3, method)
    shown = segments_figure([v.image for v in views], [1.0, 1.5], {'groups': segments})
    assert isinstance(shown, Figure)
    assert isinstance(matches_figure(*views, mutual_matches(a, b)).figure, Figure)
    assert state() == before and not plt.get_fignums()


@pytest.mark.parametrize('size', [8, 64])
def test_a_constant_picture_and_one_patch_are_drawn(model, size):
    for fig in (patch_figure(model, FLAT, size), colours_figure(model, [FLAT, FLAT], size)):
        assert all(np.isfinite(i).all() for i in images_of(fig))
    one = patch_features(raw_pixels(model), torch.full((1, 3, size, size), 0.5))
    assert (patch_pca(one) == 0.5).all()  # nothing varies, so no colour is invented
    assert not patch_foreground(one, patch_basis(one)).any()
    assert np.isfinite(mutual_matches(one[0], one[0]).similarity).all()


def test_prefix_tokens_are_no_patches():
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for kw in ({}, {'reg_tokens': 4}, {'class_token': False, 'global_pool': 'avg'}):
        assert patch_features(small(**kw), picture).shape == (1, 192, 2, 2), kw


def test_models_without_blocks_and_without_patches():
    picture = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    cnn = as_backbone(timm.create_model('resnet10t', num_classes=0))
    assert patch_pca(patch_features(cnn, picture), shared=True).shape == (2, 2, 2, 3)
    mean = as_backbone(lambda x: x.mean((2, 3)), cnn.normalisation)
    with pytest.raises(ValueError, match='only one vector per image'):
        patch_features(mean, picture)


def test_sizes_and_paths_are_refused_in_one_line(model):
    for draw in (patch_figure, lambda m, t, **kw: colours_figure(m, [t], **kw)):
        with pytest.raises(ValueError, match='60 x 60 px is not a multiple of the patch size 8'):
            draw(model, FLAT, size=60)
        with pytest.raises(ValueError, match="'a.png' is a path, but a tile is meant"):
            draw(model, 'a.png')
    with pytest.raises(ValueError, match='refuses pictures of 40 x 40 px'):
        patch_features(small(), torch.rand(1, 3, 40, 40))
    with pytest.raises(ValueError, match='list of tiles is needed'):
        colours_figure(model, FLAT)


def test_a_colour_means_the_same_in_every_picture(model):
    tiles = sample_tiles('place')
    features = [patch_features(model, tiles[i].image[None, :, :64, :64]) for i in range(2)]
    together = patch_basis(features)
    swapped = patch_basis(features[::-1])
    for f in features:
        assert torch.allclose(together.colours(f), swapped.colours(f), atol=1e-3)
        assert torch.allclose(patch_pca(f, basis=together), together.colours(f))
    keep = [patch_foreground(f, together) for f in features]
    inside = patch_basis(features, keep=keep)
    rows = torch.cat([f.permute(0, 2, 3, 1)[k] for f, k in zip(features, keep)])
    assert torch.allclose(inside.mean, rows.mean(0), atol=1e-5)


def test_similarity_is_the_cosine(model):
    features = patch_features(model, sample_tiles('place')[0].image[None, :, :64, :64])[0]
    found = patch_similarity(features, 2, 5)
    one = torch.cosine_similarity(features[:, 2, 5], features[:, 7, 0], dim=0)
    assert torch.isclose(found[7, 0], one, atol=1e-6)


def test_a_translation_by_whole_patches_is_matched_by_pixels(model):
    "Ground that moved by two patches down and one to the right, drawn without interpolation."
    noise = torch.randint(0, 256, (3, 96, 96), generator=torch.Generator().manual_seed(0)).byte()
    a = GroundView(noise[:, :64, :64], 0.5, (0.0, 0.0))
    b = GroundView(noise[:, 16:80, 8:72], 0.5, (8.0, 4.0))
    pixels = lambda x: patch_features(raw_pixels(model), x)
    matches = mutual_matches(pixels(a.image[None])[0], pixels(b.image[None])[0])
    certain = matches.similarity > 0.999
    assert certain.sum() == 6 * 7  # patches that both pictures hold
    assert np.allclose(match_errors(matches, a, b)[certain], 0, atol=1e-6)
    assert match_shares(pixels, [(a, b)])[0] >= certain.mean()


def test_right_and_wrong_matches_differ_without_colour():
    noise = torch.randint(0, 256, (3, 32, 32)).byte()
    view = GroundView(noise, 1.0, (0.0, 0.0))
    at = np.array([[0, 0], [3, 3]])
    ax = matches_figure(view, view, Matches(at, at[[0, 0]], np.ones(2), ((4, 4), (4, 4))))
    styles = {line.get_linestyle(): line.get_marker() for line in ax.lines}
    assert styles == {'-': 'o', '--': 'x'}
    assert ax.get_title() == '1 of the 2 most similar matches right (unbroken lines), 1 of all 2'
