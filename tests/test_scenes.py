"""Scenes of every land use, from many seeds, at many scales."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from satdino_nb.engine import drawing, scene_data, texture
from satdino_nb.scenes import (
    AMBIGUOUS,
    LAND_USES,
    MASK_CLASSES,
    SceneDataset,
    make_world,
    render,
    scene,
    somewhere,
)


@pytest.mark.parametrize('land_use', (*LAND_USES, 'fractal'))
def test_any_seed_and_scale_renders(land_use):
    scenes = SceneDataset(6, (land_use,), gsd=(0.15, 30), size=40, seed=11)
    for k in range(len(scenes)):
        _, seed, gsd = scenes.recipe(k)
        made = scene(land_use, seed, gsd, 40)
        assert (
            made.image.shape == (3, 40, 40) and made.image.dtype == torch.uint8 and made.gsd == gsd
        )
        assert made.mask.shape == (40, 40) and made.mask.max() < len(MASK_CLASSES)
        assert made.image.float().std() > 1, 'not a blank picture'
        assert torch.equal(scenes[k][0], made.image)


def test_a_scene_stays_what_it_was(repo):
    "Means of 6 x 6 pixels of two scenes a land use; data sets and numbers measured on them stand."
    kept = load_file(repo / 'tests' / 'golden' / 'scenes_16.safetensors')
    assert set(kept) == {*LAND_USES, 'fractal'}
    for land_use, before in kept.items():
        for means, (seed, gsd) in zip(before, ((1, 0.4), (2, 3.0)), strict=True):
            now = scene(land_use, seed, gsd, 96).image.float().view(3, 16, 6, 16, 6).mean((2, 4))
            off = (now - means).abs().max().item()
            assert off <= 2, f'{land_use}, seed {seed}: off by {off:.1f} grey levels'


def vote(mask, f):
    "The most frequent class in each block of f x f, and whether it has two thirds of it."
    h, w = mask.shape
    blocks = mask.view(h // f, f, w // f, f).permute(0, 2, 1, 3).reshape(h // f, w // f, f * f)
    counts = torch.stack([(blocks == c).sum(-1) for c in range(len(MASK_CLASSES))], -1)
    return counts.argmax(-1), counts.max(-1).values > f * f * 2 / 3


@pytest.mark.slow
def test_a_picture_is_the_mean_of_a_finer_one():
    size, rows = 48, []
    for land_use in LAND_USES:
        for k, gsd in enumerate((0.15, 0.3, 0.7, 1.2, 2.0, 3.5, 7.0, 14.0, 30.0)):
            world, f = make_world(land_use, 5 + k), 2 + 2 * (k % 2)
            coarse, fine = (
                render(world, somewhere(world), gsd, size),
                render(world, somewhere(world), gsd / f, f * size),
            )
            mean = fine.image.float().view(3, size, f, size, f).mean((2, 4))
            off, (classes, clear) = coarse.image.float() - mean, vote(fine.mask, f)
            rows.append(
                (
                    land_use,
                    gsd,
                    off.abs().mean().item(),
                    off.mean((1, 2)).abs().max().item(),
                    (coarse.mask == classes)[clear].float().mean().item(),
                )
            )
    gsds, error, brightness, agree = np.array([row[1:] for row in rows]).T
    assert error.max() < 5.5 and np.median(error) < 2, max(rows, key=lambda row: row[2])
    assert brightness.max() < 3 and np.median(brightness) < 0.4, max(rows, key=lambda row: row[3])
    assert (
        np.median(agree) > 0.98 and agree[gsds < 5].min() > 0.9
    )  # beyond, a vote of votes is another matter than one vote


def test_the_mask_is_a_vote():
    code = torch.zeros(8, 8, dtype=torch.uint8).numpy()
    code[:4, :4] = drawing.CODE['grass']
    code[0, :2] = drawing.CODE['tree']  # two samples of sixteen
    code[4:, 4:], code[4:, 4:6] = drawing.CODE['vehicle'], drawing.CODE['asphalt']
    code[4, 4] = drawing.CODE['vehicle']  # nine of sixteen
    mask, gains = texture.mixture(code)
    assert [MASK_CLASSES[c] for c in mask.ravel()] == ['grass', 'bare', 'bare', 'vehicle']
    assert np.allclose(
        gains[:, 0, 0],
        (14 * texture.GAINS[drawing.CODE['grass']] + 2 * texture.GAINS[drawing.CODE['tree']]) / 16,
    )


def contrast(gsd, seeds, n=5):
    """Standard deviation in each band of a fractal picture; a row per world.

    Each band is twice as coarse as the one before.
    """
    rows = []
    for seed in seeds:
        image, row = scene('fractal', seed, gsd, 128).image[1].numpy().astype(float), []
        for _ in range(n):
            mean = image.reshape(len(image) // 2, 2, -1, 2).mean((1, 3))
            row.append((image - mean.repeat(2, 0).repeat(2, 1)).std())
            image = mean
        rows.append(row)
    return np.array(rows)


def test_a_fractal_looks_alike_at_every_scale():
    assert 'fractal' in AMBIGUOUS and 'fractal' not in LAND_USES
    bands = [contrast(gsd, range(100 * k, 100 * k + 40)) for k, gsd in enumerate((0.3, 3.0, 30.0))]
    for a in bands:
        for b in bands:
            error = np.sqrt((a.var(0) + b.var(0)) / len(a))
            assert (abs(a.mean(0) - b.mean(0)) < 4 * error).all() and (
                error < 0.06 * a.mean(0)
            ).all()
    assert (scene('fractal', 1, 3.0, 32).mask == MASK_CLASSES.index('bare')).all()


def test_a_cache_gives_the_same_scenes_and_makes_each_once(tmp_path, monkeypatch):
    plain, kept = (
        SceneDataset(6, size=24, seed=2),
        SceneDataset(6, size=24, seed=2, cache=tmp_path / 'a'),
    )
    for _ in range(2):
        for k in (3, 0, -1):
            assert torch.equal(kept[k][0], plain[k][0]) and kept[k][1:] == plain[k][1:]
    reopened = pickle.loads(pickle.dumps(kept))
    monkeypatch.setattr(scene_data, 'scene', lambda *args: pytest.fail('drawn again'))
    for k in (0, 3, 5):
        assert torch.equal(reopened[k][0], kept[k][0])
    kept[0][0].zero_()  # what is handed out is the caller's own
    assert reopened[0][0].any()
    assert kept.nbytes() == 6 * 3 * 24 * 24 == (tmp_path / 'a' / 'scenes.u8').stat().st_size


def test_a_record_cut_off_is_made_again(tmp_path):
    kept = SceneDataset(4, size=24, cache=tmp_path, masks=True)
    whole = kept[1]
    assert torch.equal(whole[3], scene(*kept.recipe(1), 24).mask)
    kept.kept.open()[0][1, :, 12:] = 0
    assert all(torch.equal(a, b) for a, b in zip(kept[1][::3], whole[::3]))


def test_a_cache_of_other_scenes_is_refused(tmp_path):
    SceneDataset(4, size=24, seed=1, cache=tmp_path)
    for other in (
        dict(seed=2),
        dict(size=25),
        dict(gsd=(1, 2)),
        dict(masks=True),
        dict(land_uses=('sea',)),
        dict(length=5),
    ):
        with pytest.raises(ValueError, match='delete that folder') as error:
            SceneDataset(**(dict(length=4, size=24, seed=1, cache=tmp_path) | other))
        assert str(tmp_path) in str(error.value)
    assert len(SceneDataset(4, size=24, seed=1, cache=tmp_path)) == 4


@pytest.mark.slow
def test_workers_fill_one_cache(tmp_path):
    kept = SceneDataset(12, size=24, cache=tmp_path, masks=True)
    loader = torch.utils.data.DataLoader(kept, 3, num_workers=2, multiprocessing_context='spawn')
    made = torch.cat([images for images, *_ in loader])
    assert all(torch.equal(made[k], scene(*kept.recipe(k), 24).image) for k in range(12))
    assert (kept.kept.open()[1] != 0).all()


@pytest.mark.parametrize(
    'wrong',
    [
        dict(length=-1),
        dict(gsd=(2, 1)),
        dict(gsd=(0, 1)),
        dict(size=0),
        dict(size=(8, -1)),
        dict(land_uses=()),
        dict(land_uses=('moon',)),
    ],
)
def test_a_wrong_data_set_is_refused_at_once(wrong):
    with pytest.raises(ValueError):
        SceneDataset(**(dict(length=4, size=24) | wrong))
