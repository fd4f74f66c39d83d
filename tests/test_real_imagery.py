"""Public imagery, where it is present: read right, and trained on."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from satdino_nb.data import (
    NORMALISATIONS,
    DatasetTiles,
    Windows,
    audit,
    audit_text,
    channel_stats,
    check_images,
    collate,
    contact_sheet,
    folder_tiles,
    geotiff_tiles,
    mask_tiles,
    read_mask,
)
from satdino_nb.gsd import file_gsd, map_tile_gsd
from satdino_nb.pretrain import PretrainConfig, pretrain
from satdino_nb.views import MultiCrop, centre_view, view_preset


@pytest.mark.slow
def test_eurosat_equals_torchvisions_reading(shared):
    from torchvision.datasets import EuroSAT
    from torchvision.transforms.functional import pil_to_tensor

    root = shared('data/eurosat').parent
    ours, theirs = (
        folder_tiles(root / 'eurosat' / '2750', gsd=10),
        EuroSAT(str(root), download=False),
    )
    assert len(ours) == len(theirs) == 27000 and list(ours.classes) == theirs.classes
    for i in (0, 5000, 26999):
        image, label = theirs[i]
        assert (
            torch.equal(ours[i].image, pil_to_tensor(image))
            and ours[i].label == label
            and ours[i].gsd == 10
        )


def test_images_of_different_sizes_share_a_batch(shared):
    tiles = folder_tiles(shared('data/ucmerced'), gsd=0.3048)
    sizes = {}
    for i in range(0, len(tiles), 7):
        sizes.setdefault(tiles[i].image.shape, i)
    assert len(sizes) > 1, 'UC Merced has tiles of several sizes'
    batch = collate([tiles[i] for i in sizes.values()])
    views = MultiCrop(view_preset('small'))(batch.images, batch.gsd, hw=batch.hw)
    bottom_right = views[0].boxes[..., :2] + views[0].boxes[..., 2:]
    assert (bottom_right <= batch.hw).all()
    assert views[1].gsd.min() > 0.3048 * math.sqrt(0.04) * 200 / 32 and centre_view(batch, 64)[
        0
    ].shape == (len(batch), 3, 64, 64)


@pytest.mark.slow
def test_eurosat_through_torchvision(shared):
    from torchvision.datasets import EuroSAT

    root = shared('data/eurosat').parent
    ours, theirs = (
        folder_tiles(root / 'eurosat' / '2750', gsd=10),
        DatasetTiles(EuroSAT(str(root), download=False), gsd=10),
    )
    assert (
        ours.paths == theirs.paths
        and ours.labels == theirs.labels
        and ours.classes == theirs.classes
        and ours.gsds == theirs.gsds
    )
    for i in (0, 12345, 26999):
        assert torch.equal(ours[i].image, theirs[i].image) and theirs[i].label == ours[i].label


def test_eurosat_through_torchgeo(shared):
    """A dictionary sample of a torchgeo data set (its RGB reader of a folder).

    Skipped where torchgeo is not installed.
    """
    datasets = pytest.importorskip('torchgeo.datasets')
    root = shared('data/ucmerced')

    class Folder(datasets.NonGeoClassificationDataset):
        def __init__(self):
            super().__init__(root=str(root), is_valid_file=lambda p: p.endswith('.jpg'))

    tiles = DatasetTiles(Folder(), gsd=0.3048, limits=(0, 255))
    ours = folder_tiles(root, gsd=0.3048)
    assert (
        isinstance(tiles.dataset[0], dict)
        and len(tiles) == len(ours) == 840
        and tiles.classes == ours.classes
    )
    assert torch.equal(tiles[500].image, ours[500].image) and tiles[500].label == ours[500].label


@pytest.mark.slow
def test_statistics_of_eurosat_are_those_of_the_released_code(shared):
    stats = channel_stats(folder_tiles(shared('data/eurosat') / '2750', 10), most=3000)
    assert stats.mean == pytest.approx(NORMALISATIONS['eurosat'].mean, abs=0.01)


def test_gsd_of_georeferenced_files_agrees_with_their_folders(shared):
    pytest.importorskip('rasterio')
    files = list(shared('data/geotiff').rglob('*.tif'))
    assert len(files) >= 7
    for path in files:
        said = float(re.search(r'([\d.]+)m', path.parent.name)[1])
        down, across = file_gsd(path)
        assert math.sqrt(down * across) == pytest.approx(said, rel=0.01), path
    for path in shared('data/neon_0.1m').rglob('*.tif'):
        assert file_gsd(path) == pytest.approx((0.1, 0.1), rel=0.005), path


@pytest.mark.slow
def test_windows_of_every_georeferenced_file(shared):
    pytest.importorskip('rasterio')
    tiles = check_images(geotiff_tiles(shared('data/geotiff'), how=Windows(size=256)))
    assert len(tiles.classes) == 7 and set(tiles.labels) == set(range(7)), (
        "the folder's subfolders are its classes"
    )
    for i in range(len(tiles)):
        said = float(re.search(r'([\d.]+)m', Path(tiles.paths[i]).parent.name)[1])
        assert tiles.gsds[i] == pytest.approx(said, rel=0.02) and tiles[i].image.shape == (
            3,
            *tiles[i].box[2:],
        )
        assert tiles[i].image.float().std() > 1, (
            f'{tiles.paths[i]} {tiles.boxes[i]}: nothing to see'
        )
    assert tiles.left_out > 0, 'the scenes of satellites have borders without data'
    landsat = next(p for p in tiles.paths if 'Landsat5' in p)
    assert tiles.limits[landsat] != [(0, 255)] * 3, '16 bits are stretched'
    neon = geotiff_tiles(shared('data/neon_0.1m'))
    assert all(g == pytest.approx(0.1, rel=0.005) for g in neon.gsds) and len(set(neon.paths)) >= 18


@pytest.mark.slow
def test_three_zooms_of_one_place(shared):
    "GSD from the tiles' names agrees with the documented values, and their masks pair up."

    def gsd(path):
        *_, x, y, zoom = path.stem.split('-')
        return map_tile_gsd(int(zoom), int(y))

    for zoom, n, documented in ((19, 7, 0.2986), (20, 28, 0.1493), (21, 112, 0.0746)):
        root = shared(f'data/buildings_pyramid/z{zoom}')
        tiles = mask_tiles(root / 'images', root / 'masks', gsd)
        assert len(tiles) == n and all(g == pytest.approx(documented, abs=6e-5) for g in tiles.gsds)
        masks = [read_mask(m) for m in tiles.masks]
        assert all(m.shape == tiles[i].image.shape[1:] for i, m in enumerate(masks))
        assert len(torch.cat([m.flatten() for m in masks]).unique()) == 2


def test_coloured_and_palette_masks(shared):
    root = shared('data/dubai_segmentation')
    colours = ['3C1098', '8429F6', '6EC1E4', 'FEDD3A', 'E2A929', '9B9B9B']
    tiles = mask_tiles(root / 'images', root / 'masks')
    assert len(tiles) == 36 and set(tiles.gsds) == {None}
    modes, seen, strays = set(), set(), []
    for i, path in enumerate(tiles.masks):
        with Image.open(path) as mask:
            modes.add(mask.mode)
        try:
            classes = read_mask(path, colours)
        except ValueError as e:  # two masks hold a few black pixels
            assert 'outside the legend: 000000' in str(e)
            classes = read_mask(path, colours, other=5)
            strays.append(path)
        assert classes.shape == tiles[i].image.shape[1:]
        seen |= set(classes.unique().tolist())
    assert 'P' in modes and 'RGB' in modes and seen == set(range(6)) and len(strays) == 2


@pytest.mark.slow
def test_the_audit_of_27_000_files_finds_them_all(shared):
    found = audit(shared('data/eurosat') / '2750', gsd=10)
    assert (
        len(found.good) == 27000 and not found.unreadable and '27000 x 64 x 64' in audit_text(found)
    )
    assert contact_sheet(found, 8).size == (8 * 164, 164)


@pytest.mark.slow
def test_a_short_run_on_eurosat(shared, tmp_path):
    config = PretrainConfig(
        data=shared('data/eurosat') / '2750',
        gsd=10,
        out=tmp_path / 'run',
        steps=6,
        batch_size=32,
        log_every=1,
        check=False,
        workers=1,
    )
    run = pretrain(config)
    assert len(run.metrics) == 6 and all(math.isfinite(r['loss']) for r in run.metrics)
    assert run.metrics[-1]['gsd_mae'] < run.metrics[0]['gsd_mae']
    assert json.loads((tmp_path / 'run' / 'config.json').read_text())['gsd'] == 10
    stats = channel_stats(folder_tiles(config.data, 10), most=300)
    assert stats.mean == pytest.approx((0.343, 0.379, 0.406), abs=0.02)
