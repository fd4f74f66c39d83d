"""Views are the same for any batch, worker count and place where they are cut.

No slower path drifts from the definition.
"""

import dataclasses

import numpy as np
import pytest
import torch

from satdino_nb.data import cache_tiles, folder_tiles, for_views, sample_tiles
from satdino_nb.pretrain import PretrainConfig, view_batches
from satdino_nb.views import (
    MultiCrop,
    ViewConfig,
    cut_image,
    cut_views,
    sample_params,
    view_preset,
    view_rng,
)

TILES = sample_tiles('test').subset(range(0, 90, 3))
CPU = torch.device('cpu')


def as_float(images):
    return images / 255 if images.dtype == torch.uint8 else images


@pytest.mark.parametrize('workers,where', [(2, 'device'), (0, 'host'), (2, 'host')])
def test_one_seed_gives_the_same_views(workers, where):
    base = PretrainConfig(
        views=view_preset('tiny'), batch_size=10, steps=6, workers=0, cut_views='device', seed=3
    )  # two epochs
    ours = dataclasses.replace(base, workers=workers, cut_views=where)
    for (paths, (views,)), (paths2, (views2,)) in zip(
        view_batches(TILES, base, CPU), view_batches(TILES, ours, CPU), strict=True
    ):
        assert paths == paths2
        for a, b in zip(views, views2, strict=True):
            assert torch.equal(a.boxes, b.boxes) and torch.equal(a.gsd, b.gsd)
            assert (as_float(a.images) - as_float(b.images)).abs().mean(
                (0, 2, 3, 4)
            ).max() < 2 / 255


def test_the_batch_does_not_matter():
    images = torch.stack([TILES[i].image for i in range(6)])
    crop = MultiCrop(view_preset('small'))
    together = crop(images, seed=5, index=range(6))
    for i in (0, 3, 5):
        for a, b in zip(together, crop(images[i : i + 1], seed=5, index=[i])):
            assert torch.allclose(a.images[:, i], b.images[:, 0], atol=1e-5) and torch.equal(
                a.boxes[:, i], b.boxes[:, 0]
            )


@pytest.mark.parametrize('hw', [(640, 640), (37, 500), (300, 41), (5, 9), (1, 1)])
def test_both_ways_of_cutting_agree_on_any_shape(hw):
    """The agreement that is promised: 2/255 mean absolute difference in every view.

    Flips, blur, jitter, grey and solarising included.
    """
    place = sample_tiles('place')[0].image[:, : hw[0], : hw[1]]
    config = ViewConfig(solarise=1.0, grey=0.3, blur=(1.0, 0.5, 0.5))
    for seed in range(3):
        params = sample_params(config, hw, view_rng(seed, 0))
        batched = type(params)(*(v[:, None] for v in vars(params).values()))
        for part, size in ((slice(0, 2), 224), (slice(2, None), 96)):
            single = np.empty((len(params[part].flip), size, size, 3), np.uint8)
            cut_image(place, params[part], single)
            difference = (
                (
                    cut_views(place[None], batched[part], size)[:, 0]
                    - torch.from_numpy(single).permute(0, 3, 1, 2) / 255
                )
                .abs()
                .mean((1, 2, 3))
            )
            assert difference.max() < 2 / 255, (hw, seed, size)


def test_reduced_decoding_changes_neither_gsd_nor_picture(tmp_path):
    from PIL import Image

    Image.open(sample_tiles('place').paths[0]).resize((1801, 1403), Image.BICUBIC).save(
        tmp_path / 'a.jpg', quality=95
    )
    whole = folder_tiles(tmp_path, gsd=0.3)
    reduced = for_views(whole, ViewConfig().ranges())
    a, b = whole[0], reduced[0]
    assert (
        a.image.shape == (3, 1403, 1801)
        and b.image.shape == (3, 702, 901)
        and b.gsd == pytest.approx(0.6, rel=2e-3)
    )
    crop = MultiCrop(ViewConfig(flip=0, jitter=0, grey=0, blur=(0, 0, 0), solarise=0))
    for u, v in zip(crop.one(a.image, a.gsd, 1), crop.one(b.image, b.gsd, 1)):
        assert torch.allclose(u.gsd, v.gsd, rtol=0.02)  # boxes are whole pixels of either
        assert abs(u.images.float().mean() - v.images.float().mean()) < 1
    small = for_views(whole, view_preset('paper', local_scale=(0.01, 0.25)).ranges())
    assert small[0].image.shape == (3, 1403, 1801), (
        'a crop that would be enlarged is decoded in full'
    )


def test_a_cache_trains_the_same(tmp_path):
    c = PretrainConfig(
        views=view_preset('tiny'), batch_size=8, steps=2, workers=1, cut_views='host'
    )
    cached = cache_tiles(TILES, tmp_path)
    for (_, (a,)), (_, (b,)) in zip(view_batches(TILES, c, CPU), view_batches(cached, c, CPU)):
        assert all(torch.equal(u.images, v.images) for u, v in zip(a, b))
    shorter = TILES.subset(range(9))
    assert cache_tiles(shorter, tmp_path).file != cached.file, 'other tiles, another file'


def test_a_cache_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OSError, match='GiB are free'):
        cache_tiles(TILES, tmp_path / 'cache')
    assert not list((tmp_path / 'cache').iterdir())


@pytest.mark.parametrize(
    'wrong,words',
    [
        (dict(local_scale=(0.25, 0.05)), 'low <= high'),
        (dict(global_scale=(0.25, 1.1)), '<= 1'),
        (dict(local_scale=(0.0, 0.2)), '0 < low'),
        (dict(n_global=0), 'at least one global'),
        (dict(n_local=-1), 'at least one global'),
        (dict(n_global=1, n_local=0), 'two in all'),
        (dict(by='gsd'), "'area', 'side' or 'log'"),
        (dict(sampling='even'), "'uniform' or 'random'"),
        (dict(grey=2.0), 'probability'),
        (dict(global_size=0), 'positive'),
        (dict(ratio=(4 / 3, 3 / 4)), 'ratio'),
        (dict(blur=(0.5, 2.0, 0.0)), 'probabilit'),
        (dict(blur_sigma=(2.0, 1.0)), 'blur_sigma'),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_when_made(wrong, words):
    with pytest.raises(ValueError, match=words):
        ViewConfig(**wrong)


def test_images_of_the_wrong_kind_are_refused():
    crop = MultiCrop(view_preset('tiny'))
    for images in (torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match='uint8'):
            crop(images)
    with pytest.raises(ValueError):
        crop(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), gsd=[1.0, 2.0, 3.0])
    assert crop(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))[0].gsd.isnan().all()
