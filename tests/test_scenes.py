"""Scenes of every land use, from many seeds, at many scales."""
import pytest
import torch

from satdino_nb.scenes import LAND_USES, MASK_CLASSES, SceneDataset, scene


@pytest.mark.parametrize('land_use', LAND_USES)
def test_any_seed_and_scale_renders(land_use):
    scenes = SceneDataset(12, (land_use,), gsd=(0.15, 30), size=40, seed=11)
    for k in range(len(scenes)):
        _, seed, gsd = scenes.recipe(k)
        made = scene(land_use, seed, gsd, 40)
        assert made.image.shape == (3, 40, 40) and made.image.dtype == torch.uint8 and made.gsd == gsd
        assert made.mask.shape == (40, 40) and made.mask.max() < len(MASK_CLASSES)
        assert made.image.float().std() > 1, "not a blank picture"
        assert torch.equal(scenes[k][0], made.image)
