"""What belongs to the caller stays as it was: Pillow's limit, warning filters, random numbers."""

import random
import threading
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from satdino_nb.data import (
    audit,
    cache_tiles,
    channel_stats,
    collate,
    open_tiles,
    read_image,
    sample_tiles,
    samples_dir,
    split_tiles,
)
from satdino_nb.dino import DINOHead, SatDINO
from satdino_nb.engine.images import part_of, picture_hw
from satdino_nb.scenes import SceneDataset, scene
from satdino_nb.vit import SatViT, load_satdino, save_satdino, vit_preset


def state():
    "Everything global that a library could change behind its caller's back."
    name, keys, *rest = np.random.get_state()
    return (
        Image.MAX_IMAGE_PIXELS,
        list(warnings.filters),
        random.getstate(),
        (name, keys.tobytes(), *rest),
        torch.get_rng_state().numpy().tobytes(),
        torch.get_num_threads(),
    )


def use_tiles(folder):
    tiles = sample_tiles('train').subset(range(0, 270, 30))
    collate(list(tiles))
    channel_stats(tiles)
    split_tiles(tiles, 0.5)
    cache_tiles(tiles, folder)
    audit(samples_dir() / 'places', gsd=0.6)
    open_tiles(samples_dir() / 'places', gsd=0.6)


def use_scenes(folder):
    scene('sea', 0, 2.0)
    data = SceneDataset(4, size=32)
    assert len([data[i] for i in range(len(data))]) == 4


def use_vit(folder):
    model = load_satdino('satdino-nano')
    model(torch.zeros(1, 3, 64, 64))
    save_satdino(model, folder / 'model.safetensors')


@pytest.mark.parametrize('use', [use_tiles, use_scenes], ids=['tiles', 'scenes'])
def test_global_state_stays(use, tmp_path):
    before = state()
    use(tmp_path)
    assert state() == before


def test_loading_leaves_filters_and_limits(tmp_path):
    "A model that is made draws its weights from torch's generator; nothing else changes."
    before = state()
    use_vit(tmp_path)
    after = state()
    assert after[:4] == before[:4]
    assert after[5] == before[5]


def test_steps_of_satdino_leave_no_trace():
    model = SatDINO(SatViT(vit_preset('micro', img_size=32, patch_size=8)), DINOHead(96, 64))
    views = [torch.zeros(2, 2, 3, 32, 32)]
    gsd = [torch.ones(2, 2)]
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    sizes = {k: len(v) for k, v in vars(model).items() if hasattr(v, '__len__')}
    before = state()
    for mode in (True, False):
        model.train(mode)
        model(views, gsd, 0.04)
    assert state() == before
    assert {k: len(v) for k, v in vars(model).items() if hasattr(v, '__len__')} == sizes
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


@pytest.fixture
def large(tmp_path, monkeypatch):
    "A picture of more than twice as many pixels as Pillow allows here."
    Image.new('RGB', (30, 20)).save(tmp_path / 'large.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    return tmp_path / 'large.png'


def test_limit_of_pixels_is_raised_while_reading_only(large, monkeypatch):
    with pytest.raises(ValueError, match='SATDINO_MAX_PIXELS'):
        read_image(large)
    monkeypatch.setenv('SATDINO_MAX_PIXELS', '1000')
    assert read_image(large).shape == (3, 20, 30)
    assert read_image(large, (0, 0, 20, 29)).shape == (3, 20, 29)
    assert picture_hw(large) == (20, 30)
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(Image.DecompressionBombError):
        Image.open(large)


def test_limit_comes_back_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv('SATDINO_MAX_PIXELS', '1000')
    before = Image.MAX_IMAGE_PIXELS
    (tmp_path / 'broken.png').write_bytes(b'no picture')
    with pytest.raises(ValueError, match='broken.png'):
        read_image(tmp_path / 'broken.png')
    with pytest.raises(ValueError):
        part_of(Image.new('RGB', (4, 4)), (3, 0, -2, 4))
    assert Image.MAX_IMAGE_PIXELS == before


def test_limit_comes_back_with_threads(large, monkeypatch):
    monkeypatch.setenv('SATDINO_MAX_PIXELS', '1000')
    threads = [threading.Thread(target=read_image, args=(large,)) for _ in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert Image.MAX_IMAGE_PIXELS == 100
