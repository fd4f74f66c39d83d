"""What users' folders really hold.

Every kind of bad file and table, what is said about it, and how to go on without it.
"""

import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from satdino_nb.data import (
    ImageReadError,
    Windows,
    audit,
    audit_findings,
    channel_stats,
    check_images,
    collate,
    file_facts,
    folder_tiles,
    geotiff_tiles,
    open_tiles,
    read_image,
    samples_dir,
    table_tiles,
)
from satdino_nb.gsd import file_gsd
from satdino_nb.views import MultiCrop, view_preset

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (48, 64, 3)).astype('uint8')


@pytest.fixture
def folder(tmp_path):
    "Two good pictures, for company."
    for name in ('a.png', 'b.jpg'):
        Image.fromarray(NOISE).save(tmp_path / name)
    return tmp_path


def cut(path, whole, share=0.5):
    Image.fromarray(NOISE).save(whole)
    path.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    whole.unlink()


def truncated_jpeg(f):
    cut(f / 'bad.jpg', f / 'whole.jpg')


def truncated_tiff(f):
    cut(f / 'bad.tif', f / 'whole.tif')


def truncated_png(f):
    cut(f / 'bad.png', f / 'whole.png')


def header_only(f):
    cut(f / 'bad.jpg', f / 'whole.jpg', 0.02)


def zero_bytes(f):
    (f / 'bad.jpg').write_bytes(b'')


def text_called_jpg(f):
    (f / 'bad.jpg').write_text('not a picture at all\n' * 50)


def sixteen_bit(f):
    Image.fromarray(NOISE[..., 0].astype('uint16') * 200).save(f / 'bad.png')


def float_tiff(f):
    Image.fromarray(NOISE[..., 0].astype('float32')).save(f / 'bad.tif')


def link_to_itself(f):
    (f / 'bad.jpg').symlink_to(f / 'bad.jpg')


def link_to_nothing(f):
    (f / 'bad.jpg').symlink_to(f / 'gone.jpg')


def bomb(f):
    Image.new('1', (20_000, 20_000)).save(f / 'bad.png')


@pytest.mark.parametrize(
    'spoil',
    [
        truncated_jpeg,
        truncated_tiff,
        truncated_png,
        header_only,
        zero_bytes,
        text_called_jpg,
        sixteen_bit,
        float_tiff,
        link_to_itself,
        link_to_nothing,
        bomb,
    ],
    ids=lambda f: f.__name__,
)
@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_a_bad_picture_is_named_and_can_be_skipped(folder, spoil):
    spoil(folder)
    tiles = folder_tiles(folder, gsd=1)
    assert len(tiles) == 3
    with pytest.raises(ImageReadError, match='1 of 3 images') as e:
        check_images(tiles)
    assert 'bad.' in str(e.value)
    with pytest.warns(UserWarning, match='left out 1 of 3'):
        good = check_images(tiles, on_error='skip')
    assert [Path(p).name for p in good.paths] == ['a.png', 'b.jpg'] and good.left_out == 1
    found = audit(folder, gsd=1)
    if spoil in (sixteen_bit, float_tiff):
        assert audit_findings(found)['not 8-bit: to be stretched (geotiff_tiles)']
    else:
        assert [Path(f.path).stem for f in found.unreadable] == ['bad'] and found.unreadable[
            0
        ].problem


@pytest.mark.slow
def test_a_larger_picture_can_be_allowed(folder):
    import subprocess

    bomb(folder)
    said = {}
    for limit in ('', '1000000000'):
        env = os.environ | {'SATDINO_MAX_PIXELS': limit}
        code = (
            'from satdino_nb.data import read_image; '
            f'print(tuple(read_image({str(folder / "bad.png")!r}, (0, 0, 8, 8)).shape))'
        )
        said[limit] = subprocess.run(
            [sys.executable, '-c', code], env=env, text=True, capture_output=True
        )
    assert (
        'SATDINO_MAX_PIXELS' in said[''].stderr and said['1000000000'].stdout.strip() == '(3, 8, 8)'
    )


@pytest.mark.parametrize('mode', ['L', 'LA', 'RGBA', 'P', '1', 'CMYK', 'YCbCr'])
def test_every_8_bit_mode_becomes_rgb(folder, mode):
    suffix = '.tif' if mode in ('CMYK', 'YCbCr') else '.png'
    Image.fromarray(NOISE).convert(mode).save(folder / f'mode{suffix}')
    image = read_image(folder / f'mode{suffix}')
    assert image.shape == (3, 48, 64) and image.dtype == torch.uint8
    assert np.array_equal(
        image.permute(1, 2, 0).numpy(),
        np.array(Image.fromarray(NOISE).convert(mode).convert('RGB')),
    )


def test_the_content_decides_not_the_ending(folder):
    Image.fromarray(NOISE).save(folder / 'really.jpg', format='PNG')
    assert np.array_equal(read_image(folder / 'really.jpg').permute(1, 2, 0).numpy(), NOISE)
    assert [
        Path(f.split(':')[0]).name
        for f in audit_findings(audit(folder))['ending does not fit the format']
    ] == ['really.jpg']


def test_one_pixel_and_pictures_smaller_than_a_crop(folder):
    Image.new('RGB', (1, 1), (9, 8, 7)).save(folder / 'one.png')
    Image.fromarray(NOISE[:5, :9]).save(folder / 'small.png')
    tiles = check_images(folder_tiles(folder, gsd=0.5))
    batch = collate([tiles[i] for i in range(len(tiles))])
    views = MultiCrop(view_preset('small'))(batch.images, batch.gsd, hw=batch.hw)
    assert all(v.images.isfinite().all() if v.images.is_floating_point() else True for v in views)
    assert all((v.gsd > 0).all() and (v.boxes[..., 2:] >= 1).all() for v in views)
    narrow = audit_findings(audit(folder))['narrower than the smallest view']
    assert {Path(line.split(':')[0]).name for line in narrow} == {
        'a.png',
        'b.jpg',
        'one.png',
        'small.png',
    }
    assert (
        len(
            audit_findings(audit(folder, views={'all': ((0.5, 1), 16)}))[
                'narrower than the smallest view'
            ]
        )
        == 2
    )


def test_names_in_any_script_and_very_long_paths(tmp_path):
    deep = tmp_path / '衛星画像' / 'снимки' / 'Größe und Maß'
    for _k in range(8):
        deep = deep / ('x' * 200)
    deep.mkdir(parents=True)
    Image.fromarray(NOISE).save(deep / 'îlê 🛰.png')
    assert len(str(deep)) > 1600
    tiles = check_images(folder_tiles(deep, gsd=1))
    assert tiles[0].image.shape == (3, 48, 64) and tiles[0].path.endswith('🛰.png')
    (deep.parent / 'index.csv').write_text(
        f'file,class\n{deep.name}/îlê 🛰.png,forêt\n', encoding='utf-8'
    )
    assert table_tiles(deep.parent / 'index.csv').classes == ('forêt',)
    assert len(audit(tmp_path).good) == 1


@pytest.fixture
def open_folder():
    "A folder that other users may enter, and the right to be one of them."
    folder = Path(tempfile.mkdtemp(prefix='satdino-'))
    folder.chmod(0o755)
    shutil.copy(samples_dir() / 'scenes' / 'sea' / 'sea_00.jpg', folder / 'a.jpg')
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(not hasattr(os, 'geteuid'), reason='POSIX permissions')
def test_files_and_folders_without_permission_are_named(open_folder):
    (open_folder / 'closed.jpg').write_bytes((open_folder / 'a.jpg').read_bytes())
    (open_folder / 'closed.jpg').chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)  # root may read everything; nobody may not
    try:
        with pytest.raises(ImageReadError, match='closed.jpg: no permission'):
            check_images(folder_tiles(open_folder, gsd=1))
        assert file_facts(open_folder / 'closed.jpg').problem == 'no permission to read it'
    finally:
        if root:
            os.seteuid(0)
    classes = open_folder / 'classes'
    for name in ('field', 'shut'):
        (classes / name).mkdir(parents=True)
        shutil.copy(open_folder / 'a.jpg', classes / name / 'a.jpg')
    (classes / 'shut').chmod(0)
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(ValueError, match='shut'):
            folder_tiles(classes, gsd=1)
        with pytest.warns(UserWarning, match='shut'):
            assert len(folder_tiles(classes, gsd=1, on_error='skip')) == 1
        assert any('shut' in line for line in audit(classes).closed)
    finally:
        if root:
            os.seteuid(0)
        (classes / 'shut').chmod(0o755)


def test_links_in_circles_end(tmp_path):
    for name in ('field', 'sea'):
        (tmp_path / name).mkdir()
        Image.fromarray(NOISE).save(tmp_path / name / 'a.png')
        (tmp_path / name / 'round').symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / 'self').symlink_to(tmp_path / 'self')
    assert len(folder_tiles(tmp_path, gsd=1)) == 2
    found = audit(tmp_path, gsd=1)
    assert len(found.files) == 2 and len(found.links) == 2 and len(found.copies) == 1


def test_classes_that_differ_only_in_case(tmp_path):
    for name in ('Forest', 'forest', 'sea'):
        try:
            (tmp_path / name).mkdir()
        except FileExistsError:
            pytest.skip('this file system does not tell cases apart')
        Image.fromarray(NOISE).save(tmp_path / name / 'a.png')
    with pytest.raises(ValueError, match="'Forest' and 'forest'"):
        folder_tiles(tmp_path, gsd=1)
    assert audit_findings(audit(tmp_path))['class names that differ only in case'] == [
        'Forest, forest'
    ]
    (tmp_path / 'i.csv').write_text('file,class\nsea/a.png,sea\nsea/a.png,Sea\n')
    with pytest.raises(ValueError, match='differ only in case or blanks'):
        table_tiles(tmp_path / 'i.csv')
    # blanks around a cell are no part of it
    (tmp_path / 'i.csv').write_text('file,class\nsea/a.png,sea\nsea/a.png,sea \n')
    assert table_tiles(tmp_path / 'i.csv').classes == ('sea',)


@pytest.mark.parametrize(
    'gsd,words',
    [
        (0, 'positive'),
        (-3, 'positive'),
        (float('nan'), 'positive'),
        ('ten', 'positive'),
        (1e9, 'no sensor'),
        (1e-12, 'no sensor'),
    ],
)
def test_impossible_gsds(folder, gsd, words):
    with pytest.raises(ValueError, match=words):
        folder_tiles(folder, gsd=gsd)
    (folder / 'i.csv').write_text(f'file,gsd\na.png,{gsd}\nb.jpg,0.5\n')
    with pytest.raises(ValueError, match=f'1 of 2 .*\n.*a.png.*{words}'):
        table_tiles(folder / 'i.csv')
    with pytest.warns(UserWarning, match='left out 1 of 2'):
        assert table_tiles(folder / 'i.csv', on_error='skip').gsds == [0.5]


def test_unusual_gsds_are_noted_not_refused(folder):
    assert (
        len(audit_findings(audit(folder, gsd=5e-7))['unusual GSD (below 1 cm or above 1 km)']) == 2
    )
    assert folder_tiles(folder, gsd=5e-7)[0].gsd == 5e-7, 'half a micrometre: a microscope'


@pytest.mark.parametrize(
    'table,words',
    [
        ('', "column 'file'"),
        ('name,gsd\na.png,1\n', "column 'file'"),
        ('file,gsd\n', "column 'file'"),
        (
            'file,gsd\ngone.png,1\nlost.png,1\na.png,1\n',
            '2 of 3 .*\ngone.png: no such file\nlost.png',
        ),
        ('file,top,left\na.png,1,2\n', 'whole numbers top, left, height, width'),
    ],
)
def test_bad_tables(folder, table, words):
    (folder / 'i.csv').write_text(table)
    with pytest.raises(ValueError, match=words):
        table_tiles(folder / 'i.csv')


def test_tables_that_are_not_tables(folder):
    (folder / 'i.csv').write_bytes(b'file,class\n\xff\xfe\xe9,1\n')
    with pytest.raises(ValueError, match='i.csv: not a readable CSV'):
        table_tiles(folder / 'i.csv')
    with pytest.raises(FileNotFoundError, match='gone.csv'):
        table_tiles(folder / 'gone.csv')
    pytest.importorskip('pyarrow')
    (folder / 'i.parquet').write_bytes(b'PAR1 or not')
    with pytest.raises(ValueError, match='i.parquet: not a readable Parquet'):
        table_tiles(folder / 'i.parquet')


def test_parquet_says_the_same_as_csv(tmp_path):
    pa = pytest.importorskip('pyarrow')
    import pyarrow.csv
    import pyarrow.parquet

    table = pyarrow.csv.read_csv(samples_dir() / 'manifest.csv')
    pyarrow.parquet.write_table(
        table.set_column(
            0, 'file', pa.array([str(samples_dir() / f) for f in table['file'].to_pylist()])
        ),
        tmp_path / 'm.parquet',
    )
    ours, theirs = open_tiles(tmp_path / 'm.parquet'), open_tiles(samples_dir() / 'manifest.csv')
    assert (
        ours.gsds == theirs.gsds
        and ours.labels == theirs.labels
        and ours.classes == theirs.classes
        and len(ours) == len(theirs)
    )


def test_on_error_takes_two_words(folder):
    zero_bytes(folder)
    with pytest.raises(ValueError, match="'stop' or 'skip'"):
        check_images(folder_tiles(folder, gsd=1), on_error='ignore')


def test_nothing_left_is_an_error(tmp_path):
    zero_bytes(tmp_path)
    with pytest.warns(UserWarning), pytest.raises(ImageReadError, match='none of the 1 images'):
        check_images(folder_tiles(tmp_path, gsd=1), on_error='skip')


# Georeferenced files


@pytest.fixture
def tif(tmp_path):
    "Write a GeoTIFF of given values (C, H, W)."
    rasterio = pytest.importorskip('rasterio')
    from rasterio.transform import from_origin

    def write(name, values, crs='EPSG:32633', transform=from_origin(5e5, 5.5e6, 2, 2), **more):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(
                tmp_path / name,
                'w',
                driver='GTiff',
                height=values.shape[1],
                width=values.shape[2],
                count=len(values),
                dtype=values.dtype,
                crs=crs,
                transform=transform,
                **more,
            ) as dst:
                dst.write(values)
        return tmp_path / name

    return write


BANDS = RNG.integers(1, 4000, (4, 60, 100)).astype('uint16')


@pytest.mark.parametrize(
    'dtype', ['uint8', 'uint16', 'int16', 'uint32', 'int32', 'float32', 'float64']
)
def test_any_bit_depth(tif, dtype):
    values = (BANDS[:3] / (20 if dtype == 'uint8' else 1)).astype(
        dtype
    )  # a fourth 8-bit band would be taken for transparency
    path = tif('a.tif', values)
    tiles = geotiff_tiles(path, how=Windows(size=50))
    assert [t.box for t in map(tiles.__getitem__, range(4))] == [
        (0, 0, 50, 50),
        (0, 50, 50, 50),
        (10, 0, 50, 50),
        (10, 50, 50, 50),
    ] and len(tiles) == 4
    image, limits = tiles[1].image, tiles.limits[str(path)]
    assert image.dtype == torch.uint8 and tiles[1].gsd == 2
    if dtype == 'uint8':
        assert np.array_equal(image.numpy(), values[:3, :50, 50:])
    else:
        assert limits == [tuple(np.percentile(band.astype(float), (2, 98))) for band in values], (
            'stated, and the same each time'
        )
        low, high = np.array(limits).T[:, :, None, None]
        assert (
            abs(
                image.numpy() - ((values[:3, :50, 50:] - low) / (high - low)).clip(0, 1) * 255
            ).max()
            <= 0.51
        )


def test_bands_limits_and_a_single_band(tif):
    path = tif('a.tif', BANDS)
    chosen = geotiff_tiles(path, how=Windows(size=60, bands=(4, 1, 2), limits=(0, 4000)))
    assert np.array_equal(
        chosen[0].image.numpy(),
        (BANDS[[3, 0, 1], :, :60].astype('float32') / 4000 * 255).round().astype('uint8'),
    )
    grey = geotiff_tiles(tif('grey.tif', BANDS[:1]))
    assert (grey[0].image[0] == grey[0].image[2]).all()
    for how, words in ((Windows(bands=(1, 2, 9)), r'1\.\.4'), (Windows(bands=(1, 2)), 'three')):
        with pytest.raises(ValueError, match=words):
            geotiff_tiles(path, how=how)
    with pytest.raises(ValueError, match='complex'):
        geotiff_tiles(tif('complex.tif', BANDS.astype('complex64')))


def test_nodata_is_masked_and_empty_windows_left_out(tif):
    values = BANDS.astype('float32')
    values[:, :30], values[:, 30:, :30] = np.nan, -9999
    tiles = geotiff_tiles(tif('a.tif', values, nodata=-9999), how=Windows(size=30, min_valid=0.1))
    assert tiles.left_out == 5 and len(tiles) == 3 and all(tiles[i].box[0] == 30 for i in range(3))
    assert '5 left out' in repr(tiles)
    low, high = tiles.limits[tiles.paths[0]][0]
    assert 0 < low < high < 4000, 'the stretch does not see what is masked'
    half = geotiff_tiles(tif('b.tif', values, nodata=-9999), how=Windows(size=60, min_valid=0.1))
    assert (
        (half[0].image[:, :30] == 0).all()
        and (half[0].image[:, 30:, :30] == 0).all()
        and (half[0].image[:, 31:, 31:].amax(0) > 0).float().mean() > 0.9
    )
    values[:] = np.nan
    with pytest.raises(ValueError, match='lack data'):
        geotiff_tiles(tif('c.tif', values))


def test_rotated_grids_and_missing_references(tif, tmp_path):
    from rasterio.transform import Affine

    turned = Affine.translation(5e5, 5.5e6) * Affine.rotation(25) * Affine.scale(3, -1.5)
    assert file_gsd(tif('turned.tif', BANDS, transform=turned)) == pytest.approx((1.5, 3))
    assert geotiff_tiles(tmp_path / 'turned.tif')[0].gsd == pytest.approx(2)  # 2 / (1/1.5 + 1/3)
    facts = file_facts(tmp_path / 'turned.tif')
    assert facts.gsd == pytest.approx(2) and not facts.square
    (tmp_path / 'turned.tif').unlink()
    lost = tif('lost.tif', BANDS, crs=None)
    nowhere = tif('nowhere.tif', BANDS, transform=Affine.identity())
    for path in (lost, nowhere):
        with pytest.raises(ValueError, match=path.name):
            file_gsd(path)
        with pytest.raises(ValueError, match=f'{path.name}: no coordinate'):
            geotiff_tiles(path)
        assert geotiff_tiles(path, gsd=0.7)[0].gsd == 0.7
    good = tif('good.tif', BANDS)
    with pytest.raises(ValueError, match='2 of 3'):
        geotiff_tiles(tmp_path)
    with pytest.warns(UserWarning, match='2 of 3'):
        assert set(geotiff_tiles(tmp_path, on_error='skip').paths) == {str(good)}


def test_gsd_follows_the_window(tif):
    from rasterio.transform import from_origin

    tall = tif(
        'tall.tif',
        np.ones((1, 600, 20), 'uint8'),
        crs='EPSG:3857',
        transform=from_origin(1e6, 9e6, 1000, 1000),
    )
    tiles = geotiff_tiles(tall, how=Windows(size=20))
    assert tiles.gsds == sorted(tiles.gsds) and tiles.gsds[-1] > 1.08 * tiles.gsds[0], (
        'mercator metres grow towards the pole'
    )


def test_truncated_tiff_with_a_good_header(tif):
    path = tif(
        'a.tif',
        RNG.integers(0, 255, (3, 512, 512)).astype('uint8'),
        tiled=True,
        blockxsize=256,
        blockysize=256,
    )
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    try:
        tiles = geotiff_tiles(path)
    except ValueError as e:
        assert 'a.tif' in str(e)
    else:
        with pytest.raises(ImageReadError, match='a.tif'):
            check_images(tiles)
    assert file_facts(path).problem


@pytest.mark.slow
def test_georeferenced_tiles_cross_to_workers(tif):
    path = tif('a.tif', BANDS)
    tiles = geotiff_tiles(path, how=Windows(size=50))
    loader = torch.utils.data.DataLoader(
        tiles, batch_size=2, num_workers=1, collate_fn=collate, multiprocessing_context='spawn'
    )
    assert torch.equal(
        torch.cat([b.images for b in loader]), torch.stack([tiles[i].image for i in range(4)])
    )
    assert channel_stats(tiles).mean[0] == pytest.approx(0.5, abs=0.05)


def test_what_a_model_cannot_answer_is_said():
    "A summary without patches, a GSD token without a read-out, and no images to measure."
    from satdino_nb.attention import patch_pca, patch_similarity
    from satdino_nb.engine.images import image_stats
    from satdino_nb.vit import SatViT, ViTConfig

    model = SatViT(ViTConfig(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2)).eval()
    x = torch.randn(1, 3, 16, 16)
    for of_patches in (patch_pca, lambda t: patch_similarity(t, 0, 0)):
        with pytest.raises(ValueError, match='only one vector per image'):
            of_patches(model.summary(x))
    model.gsd_head = None
    with pytest.raises(ValueError, match='no read-out in metres.*fit_gsd_head'):
        model.metres(model.tokens(x).gsd)
    with pytest.raises(ValueError, match='no images'):
        image_stats([])
