"""Pictures of attention: same weights whatever is drawn, nothing changed behind the caller."""

import random
import warnings

import numpy as np
import pytest
import torch

from satdino_nb.attention import (
    attention_figure,
    attention_mass,
    class_attention,
    colours_figure,
    heads_figure,
    last_attention,
    patch_figure,
)
from satdino_nb.engine.attention_figures import tile_input
from satdino_nb.engine.tiles import Tile, sample_tiles
from satdino_nb.vit import load_satdino


@pytest.fixture(scope='module')
def model():
    return load_satdino('satdino-nano')


def test_figures_leave_the_process_alone(model):
    place = sample_tiles('place')[0]

    def state():
        numbers = str(np.random.get_state()), torch.get_rng_state().tolist()
        return *numbers, random.getstate(), list(warnings.filters), torch.is_grad_enabled()

    before = state()
    for draw in (attention_figure, heads_figure, patch_figure):
        assert draw(model, place, size=64).axes
    assert colours_figure(model, [place, place], size=64).axes
    assert state() == before
    assert not any(b.attn._forward_hooks or b.attn._forward_pre_hooks for b in model.blocks)


def test_drawn_weights_are_those_of_last_attention(model):
    place = sample_tiles('place')[2]
    cls, gsd = attention_figure(model, place, size=128).axes[1:3]
    a = last_attention(model, tile_input(model, place, 128)[1])
    for ax, token in ((cls, 'cls'), (gsd, 'gsd')):
        weights = a.map(token)[0]
        assert np.allclose(ax.images[1].get_array(), weights / weights.mean(), atol=1e-6)


def test_degenerate_pictures_are_drawn(model):
    "A constant picture, one patch, an unknown GSD; sizes that are no multiple of the patch do not."
    flat = Tile(torch.full((3, 64, 64), 7, dtype=torch.uint8))
    for size in (8, 64):
        for draw in (attention_figure, heads_figure, patch_figure):
            images = [i for ax in draw(model, flat, size=size).axes for i in ax.images]
            assert all(np.isfinite(np.asarray(i.get_array(), float)).all() for i in images)
    with pytest.raises(ValueError, match='not a multiple of the patch size 8'):
        attention_figure(model, flat, size=60)


def test_mass_and_classes_agree_with_hand_counts():
    weights = torch.tensor([[4.0, 1.0], [3.0, 2.0]])
    assert attention_mass(weights.flatten(), 0.7).tolist() == [True, False, True, False]
    mask = torch.tensor([[0, 1], [0, 1]])
    assert torch.allclose(class_attention(weights, mask, 2), torch.tensor([1.4, 0.6]))
    with pytest.raises(ValueError, match='keep=0'):
        attention_mass(weights, 0)
