"""Faults that make no noise: each could come in with every other test still passing."""

import csv
import os

import numpy as np
import pytest
import torch
from PIL import Image

from satdino_nb.data import Windows, cache_tiles, folder_tiles, geotiff_tiles, table_tiles
from satdino_nb.engine import forecast
from satdino_nb.engine.forecast import timed_steps
from satdino_nb.engine.segmenters import Crops, Masked
from satdino_nb.features import extract_features
from satdino_nb.finetune import Classifier, FineTuneConfig, fine_tune_groups
from satdino_nb.gsd import metres_per_degree
from satdino_nb.pretrain import PretrainConfig, dry_run
from satdino_nb.readout import MEASURES
from satdino_nb.views import ViewConfig
from satdino_nb.vit import SatViT, ViTConfig

TINY = ViTConfig(img_size=16, patch_size=8, embed_dim=16, depth=4, num_heads=2)


def pictures(folder, n=4, size=16, seed=0):
    "A folder of `n` pictures in two classes, each in its own colours."
    rng = np.random.default_rng(seed)
    for i in range(n):
        path = folder / f'class{i % 2}' / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (size, size, 3), np.uint8)).save(path)
    return folder


@pytest.mark.parametrize('latitude', [0, 10, -23.4, 37.5, 45, 60, -71, 85, 89.9])
def test_metres_per_degree_are_those_of_the_ellipsoid(latitude):
    "Every term: PROJ's geodesics over a thousandth of a degree north and east, to a millionth."
    geod = pytest.importorskip('pyproj').Geod(ellps='WGS84')
    d = 0.0005
    north = geod.inv(0, latitude - d, 0, latitude + d)[2] * 1000
    east = geod.inv(-d, latitude, d, latitude)[2] * 1000
    assert metres_per_degree(latitude) == pytest.approx((north, east), rel=1e-6)


def test_windows_need_their_share_of_valid_pixels(tmp_path):
    "Left 30 % of the second window is ground: kept where a quarter is asked for, left out at half."
    rasterio = pytest.importorskip('rasterio')
    from rasterio.transform import from_origin

    image = np.full((3, 64, 128), 100, np.uint8)
    image[:, :, 64 + 19 :] = 0
    profile = dict(
        driver='GTiff',
        height=64,
        width=128,
        count=3,
        dtype='uint8',
        crs='EPSG:32636',
        transform=from_origin(500_000, 4_000_000, 0.5, 0.5),
        nodata=0,
    )
    path = tmp_path / 'half_empty.tif'
    with rasterio.open(path, 'w', **profile) as out:
        out.write(image)
    found = {v: len(geotiff_tiles(path, how=Windows(64, min_valid=v))) for v in (0.25, 0.5, 0.0)}
    assert found == {0.25: 2, 0.5: 1, 0.0: 2}


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    pictures(tmp_path)
    table = tmp_path / 'tiles.csv'
    with table.open('w', newline='', encoding='utf-8-sig') as f:
        rows = csv.writer(f)
        rows.writerows(
            [('file', 'class', 'gsd'), ('class0/0.png', 'a', 2), ('class1/1.png', 'b', 3)]
        )
    assert table.read_bytes().startswith(b'\xef\xbb\xbf')
    tiles = table_tiles(table)
    assert tiles.gsds == [2, 3] and tiles.classes == ('a', 'b')


def test_segmentation_crops_differ_from_round_to_round():
    "One image, many rounds: places, flips and turns differ; the same seed gives the same crops."
    ramp = torch.arange(64 * 64).reshape(1, 64, 64) % 251
    image = torch.cat([ramp, ramp.flip(1), ramp.flip(2)]).to(torch.uint8)
    data = Masked([(image, torch.zeros(64, 64, dtype=torch.uint8), 1.0)], ('ground', 'water'))
    crops = Crops(data, 16, 12, seed=0)
    seen = {crops[k][0].numpy().tobytes() for k in range(12)}
    assert len(seen) == 12
    again, other = Crops(data, 16, 12, seed=0), Crops(data, 16, 12, seed=1)
    assert torch.equal(crops[5][0], again[5][0]) and not torch.equal(crops[5][0], other[5][0])


def test_the_median_relative_error_is_the_median():
    "Errors of 10, 10, 20 and 900 %: the median is 15 %, the mean 235."
    truth = np.zeros(4)
    predicted = np.log([1.1, 0.9, 1.2, 10.0])
    number, _ = MEASURES['median relative error']
    assert number(np.stack([predicted, truth], 1)) == pytest.approx(0.15)


def rates(blocks):
    return [getattr(b.drop_path1, 'drop_prob', 0.0) for b in blocks]


def test_drop_path_rises_with_depth():
    "Linearly from 0 to the whole rate: pretraining (timm's rule) and fine-tuning."
    expected = pytest.approx([0, 0.1, 0.2, 0.3])
    assert rates(SatViT(TINY, drop_path_rate=0.3).blocks) == expected
    assert rates(Classifier(SatViT(TINY), 3, drop_path=0.3).backbone.blocks) == expected


def test_the_bias_of_a_head_does_not_decay():
    model = Classifier(SatViT(TINY), 3)
    groups = fine_tune_groups(model, FineTuneConfig(weight_decay=0.3))
    decay = {id(p): g['weight_decay'] for g in groups for p in g['params']}
    assert decay[id(model.head.bias)] == 0 and decay[id(model.head.weight)] == 0.3
    plain = [n for n, p in model.named_parameters() if p.ndim == 1 and decay.get(id(p))]
    assert plain == [], 'biases and norms decay'


def repaint(path):
    "Other pixels under the same name, an hour later."
    Image.new('RGB', (16, 16), (200, 30, 60)).save(path)
    at = os.stat(path).st_mtime + 3600
    os.utime(path, (at, at))


def test_kept_pixels_are_those_of_the_files_as_they_are(tmp_path):
    tiles = folder_tiles(pictures(tmp_path / 'tiles'), 1.0)
    before = cache_tiles(tiles, tmp_path / 'cache').image(0)
    repaint(tiles.paths[0])
    after = cache_tiles(folder_tiles(tmp_path / 'tiles', 1.0), tmp_path / 'cache').image(0)
    assert not torch.equal(before, after)
    assert torch.equal(after[:, 0, 0], torch.tensor([200, 30, 60], dtype=torch.uint8))


def test_kept_features_are_those_of_the_files_as_they_are(tmp_path):
    tiles, model = folder_tiles(pictures(tmp_path / 'tiles'), 1.0), SatViT(TINY)
    how = dict(cache=tmp_path / 'features', device='cpu')
    before = extract_features(model, tiles, **how).cls.clone()
    repaint(tiles.paths[0])
    after = extract_features(model, folder_tiles(tmp_path / 'tiles', 1.0), **how).cls
    assert not torch.allclose(before[0], after[0]) and torch.equal(before[1:], after[1:])


def test_a_dry_run_reports_the_time_of_one_step(tmp_path, monkeypatch):
    "Eight steps that are said to take 16 seconds, half of it waiting: two seconds a step."

    def stub(*args):
        timed_steps(*args)
        return 16.0, 8.0

    monkeypatch.setattr(forecast, 'timed_steps', stub)
    config = PretrainConfig(
        out=tmp_path / 'run',
        batch_size=2,
        steps=10,
        held_out=0.0,
        knn_every=0,
        check=False,
        device='cpu',
        precision='fp32',
        views=ViewConfig(global_size=16, local_size=8, n_local=1),
        vit=TINY,
        out_dim=16,
        hidden_dim=16,
        bottleneck_dim=8,
    )
    found = dry_run(config, folder_tiles(pictures(tmp_path / 'tiles'), 1.0), steps=8)
    assert found.step_time == pytest.approx(2) and found.wait == pytest.approx(0.5)
