"""Public imagery, where it is present: read right, and trained on."""
import json
import math
import re

import pytest
import torch

from satdino_nb.data import channel_stats, collate, folder_tiles
from satdino_nb.evaluate import centre_view
from satdino_nb.gsd import file_gsd
from satdino_nb.pretrain import PretrainConfig, pretrain
from satdino_nb.views import MultiCrop, view_preset


def test_eurosat_equals_torchvisions_reading(shared):
    from torchvision.datasets import EuroSAT
    from torchvision.transforms.functional import pil_to_tensor
    root = shared('data/eurosat').parent
    ours, theirs = folder_tiles(root/'eurosat'/'2750', gsd=10), EuroSAT(str(root), download=False)
    assert len(ours) == len(theirs) == 27000 and list(ours.classes) == theirs.classes
    for i in (0, 5000, 26999):
        image, label = theirs[i]
        assert torch.equal(ours[i].image, pil_to_tensor(image)) and ours[i].label == label and ours[i].gsd == 10


def test_images_of_different_sizes_share_a_batch(shared):
    tiles = folder_tiles(shared('data/ucmerced'), gsd=0.3048)
    sizes = {}
    for i in range(0, len(tiles), 7): sizes.setdefault(tiles[i].image.shape, i)
    assert len(sizes) > 1, "UC Merced has tiles of several sizes"
    batch = collate([tiles[i] for i in sizes.values()])
    views = MultiCrop(view_preset('small'))(batch.images, batch.gsd, hw=batch.hw)
    bottom_right = views[0].boxes[..., :2] + views[0].boxes[..., 2:]
    assert (bottom_right <= batch.hw).all()
    assert views[1].gsd.min() > 0.3048*math.sqrt(0.04)*200/32 and centre_view(batch, 64)[0].shape == (len(batch), 3, 64, 64)


def test_gsd_of_georeferenced_files_agrees_with_their_folders(shared):
    pytest.importorskip('rasterio')
    files = [p for p in shared('data/geotiff').rglob('*.tif')]
    assert len(files) >= 7
    for path in files:
        said = float(re.search(r'([\d.]+)m', path.parent.name)[1])
        down, across = file_gsd(path)
        assert math.sqrt(down*across) == pytest.approx(said, rel=0.01), path
    for path in shared('data/neon_0.1m').rglob('*.tif'):
        assert file_gsd(path) == pytest.approx((0.1, 0.1), rel=0.005), path


def test_a_short_run_on_eurosat(shared, tmp_path):
    config = PretrainConfig(data=shared('data/eurosat')/'2750', gsd=10, out=tmp_path/'run', steps=6, batch_size=32, log_every=1, check=False, workers=1)
    run = pretrain(config)
    assert len(run.metrics) == 6 and all(math.isfinite(r['loss']) for r in run.metrics)
    assert run.metrics[-1]['gsd_mae'] < run.metrics[0]['gsd_mae']
    assert json.loads((tmp_path/'run'/'config.json').read_text())['gsd'] == 10
    stats = channel_stats(folder_tiles(config.data, 10), most=300)
    assert stats.mean == pytest.approx((0.343, 0.379, 0.406), abs=0.02)
