"""Where ground lies: boxes, poles, meridians, mirrored grids; links and folders beside images."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from satdino_nb.data import Tile, Tiles, Windows, audit, mask_tiles, open_tiles
from satdino_nb.engine.audits import audit_findings, file_facts
from satdino_nb.engine.exports import ring_shape
from satdino_nb.engine.georeference import metres_per_degree
from satdino_nb.engine.images import ImageReadError, read_image, read_mask, turned
from satdino_nb.engine.rasters import footprints, geotiff_tiles
from satdino_nb.engine.segmenters import TileItems
from satdino_nb.gsd import mean_gsd

rasterio = pytest.importorskip('rasterio')
from rasterio.transform import Affine, from_origin  # noqa: E402

GROUND = np.random.default_rng(0).integers(1, 250, (3, 40, 60)).astype('uint8')
UTM = from_origin(5e5, 5.5e6, 0.5, 0.5)


def write(path: Path, values=GROUND, crs='EPSG:32633', transform=UTM, **more) -> Path:
    "`values` (C, H, W) as a GeoTIFF."
    path.parent.mkdir(parents=True, exist_ok=True)
    form = dict(driver='GTiff', count=len(values), height=values.shape[1], width=values.shape[2])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(
            path, 'w', dtype=values.dtype, crs=crs, transform=transform, **form, **more
        ) as dst:
            dst.write(values)
    return path


def picture(path: Path, values=GROUND, **more) -> Path:
    "`values` (3, H, W) or (H, W) as an ordinary picture."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.transpose(1, 2, 0) if values.ndim == 3 else values).save(path, **more)
    return path


OUTSIDE = [(0, 0, 41, 60), (0, -1, 9, 9), (30, 50, 9, 11), (99, 99, 5, 5), (0, 0, 0, 9)]


@pytest.mark.parametrize('box', [*OUTSIDE, (0, 0, 9), (0, 0, 9.5, 9), (0, 0, float('nan'), 9)])
def test_a_box_outside_of_its_picture_is_refused_by_whoever_takes_one(tmp_path, box):
    plain, raster = picture(tmp_path / 'a.png'), write(tmp_path / 'b.tif')
    with pytest.raises(ImageReadError, match=r'a\.png: its box'):
        read_image(plain, box)
    with pytest.raises(ImageReadError, match=r'a\.png: its box'):
        Tiles([plain], [1], boxes=[box])[0]
    tiles = open_tiles(raster)
    tiles.boxes[0] = box
    with pytest.raises(ImageReadError, match=r'b\.tif: its box'):
        tiles[0]
    if box in OUTSIDE[1:2] + OUTSIDE[4:] or len(box) < 4:
        with pytest.raises(ImageReadError, match='field: its box'):
            Tile(tiles.image, 1, path='field', box=box)


def test_an_audit_of_an_index_names_its_boxes_and_goes_on(tmp_path):
    picture(tmp_path / 'a.png')
    write(tmp_path / 'deep.tif', GROUND.astype('float64'))  # which Pillow does not know
    rows = ['a.png,1,0,0,20,20', 'a.png,1,30,0,20,20', 'deep.tif,1,0,50,20,20', 'a.png,1,0,0,9,']
    (tmp_path / 'i.csv').write_text('\n'.join(['file,gsd,top,left,height,width', *rows]))
    found = audit(tmp_path / 'i.csv')
    wrong = audit_findings(found)['rows of the index that cannot be used']
    assert len(found.good) == 2 and len(wrong) == 3
    assert 'top 30' in wrong[0] and '40 x 60' in wrong[1] and 'whole numbers' in wrong[2]


@pytest.mark.parametrize('top', [90.0, 89.9, -88.0, -89.96])
def test_windows_in_degrees_near_a_pole_have_their_own_gsd(tmp_path, top):
    step = 1e-3
    path = write(tmp_path / 'a.tif', crs='EPSG:4326', transform=from_origin(10, top, step, step))
    with pytest.warns(UserWarning, match='3 times as high as wide'):
        tiles = geotiff_tiles(path, how=Windows(size=10))
    for box, gsd in zip(tiles.boxes, tiles.gsds):
        down, across = metres_per_degree(top - step * (box[0] + 5))
        assert gsd == pytest.approx(mean_gsd(down * step, across * step), rel=1e-3)
    assert max(tiles.gsds) < 112 * step * 1000


@pytest.mark.parametrize('top', [90.02, 95, -91, -89.98])
def test_at_and_beyond_a_pole_degrees_have_no_gsd(tmp_path, top):
    path = write(tmp_path / 'a.tif', crs='EPSG:4326', transform=from_origin(10, top, 1e-3, 1e-3))
    with pytest.raises(ValueError, match='at or beyond a pole'):
        geotiff_tiles(path)
    assert 'pole' in file_facts(path).gsd_problem


@pytest.mark.parametrize('left', [359.99, 200.0, 180.0, 179.99, -180.01, -0.01, 539.99])
def test_footprints_are_wrapped_or_split_whatever_the_file_counts(tmp_path, left):
    shapely = pytest.importorskip('shapely')
    path = write(tmp_path / 'a.tif', crs='EPSG:4326', transform=from_origin(left, 10, 1e-3, 1e-3))
    ring = footprints(open_tiles(path))[0]
    assert -180 <= ring[0, 0] < 180 and ring[1, 0] - ring[0, 0] == pytest.approx(0.06)
    shape = ring_shape(ring)
    west, _, east, _ = shape.bounds
    assert -180 <= west <= east <= 180 and shape.is_valid
    assert shape.area == pytest.approx(0.06 * 0.04, rel=1e-6)
    inside = shapely.Point((left + 0.05 + 180) % 360 - 180, 9.98)
    assert shape.contains(inside)


def test_a_tile_wider_than_half_the_earth_keeps_its_width(tmp_path):
    pytest.importorskip('shapely')
    for left, width in ((0, 360), (-90, 250), (20, 300)):
        step = width / 60 / 10
        values = np.tile(GROUND, (1, 2, 10))
        path = write(
            tmp_path / f'{left}.tif',
            values,
            crs='EPSG:4326',
            transform=from_origin(left, 20, step, step),
        )
        ring = footprints(geotiff_tiles(path, how=Windows(size=600)))[0]
        assert np.ptp(ring[:, 0]) == pytest.approx(width)
        assert ring_shape(ring).area == pytest.approx(width * 80 * step)


@pytest.mark.parametrize('crs, pole', [('EPSG:3413', 90), ('EPSG:3031', -90), ('EPSG:3995', 90)])
def test_a_footprint_around_a_pole_holds_it(tmp_path, crs, pole):
    shapely = pytest.importorskip('shapely')
    path = write(tmp_path / 'a.tif', crs=crs, transform=from_origin(-310, 190, 10, 10))
    shape = ring_shape(footprints(open_tiles(path))[0])
    assert shape.is_valid and shape.bounds[::2] == (-180, 180)
    for longitude in (-150, -10, 60, 170):
        assert shape.contains(shapely.Point(longitude, 0.99999 * pole))


PLACES = {
    4: Affine(0.5, 0, 5e5, 0, 0.5, 5.5e6),  # begins in the south
    2: Affine(-0.5, 0, 5e5, 0, -0.5, 5.5e6),  # from east to west
    1: Affine(-0.5, 0, 5e5, 0, 0.5, 5.5e6),  # turned by 180 degrees: no mirror
}


@pytest.mark.parametrize('turn', PLACES)
@pytest.mark.parametrize('boxed', [False, True])
def test_mirrored_grids_and_their_masks_are_turned_together(tmp_path, turn, boxed):
    write(tmp_path / 'a.tif', transform=PLACES[turn])
    write(tmp_path / 'own.tif', GROUND[:1] // 100, transform=PLACES[turn])
    picture(tmp_path / 'plain.png', GROUND[0] // 100)
    rows = [f'a.tif,1,{m},5,7,20,30' if boxed else f'a.tif,1,{m}' for m in ('own.tif', 'plain.png')]
    head = 'file,gsd,mask,top,left,height,width' if boxed else 'file,gsd,mask'
    (tmp_path / 'i.csv').write_text('\n'.join([head, *rows]))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        tiles = open_tiles(tmp_path / 'i.csv')
    assert any('turned' in str(w.message) for w in said) == (turn != 1)
    raw = GROUND[:, 5:25, 7:37] if boxed else GROUND
    for i in range(2):
        image, mask, _ = TileItems(tiles, None, None)[i]
        assert np.array_equal(image.numpy(), turned(raw, turn))
        assert np.array_equal(mask.numpy(), image[0].numpy() // 100)


@pytest.mark.parametrize('turn', range(2, 9))
@pytest.mark.parametrize('name, kind', [('a.png', 'uint16'), ('a.tif', 'float32')])
def test_deep_pictures_are_turned_by_their_exif_orientation(tmp_path, turn, name, kind):
    exif = Image.Exif()
    exif[0x0112] = turn
    values = GROUND[0].astype(kind) * (100 if kind == 'uint16' else 1)
    path = picture(tmp_path / 'd' / name, values, exif=exif)
    plain = picture(tmp_path / 'p' / 'a.png', GROUND[0], exif=exif)
    with pytest.warns(UserWarning, match='turned upright'):
        image = open_tiles(path.parent, 1)[0].image[0].float()
    with pytest.warns(UserWarning, match='turned upright'):
        assert geotiff_tiles(path, 1)[0].image.shape[1:] == image.shape
    seen = read_image(plain)[0].float()
    assert image.shape == seen.shape == tuple(file_facts(path).hw)
    assert np.corrcoef(image.flatten(), seen.flatten())[0, 1] > 0.99


@pytest.mark.parametrize('inside', [True, False])
@pytest.mark.parametrize('crs', [None, 'EPSG:32633'])
def test_a_mask_of_ground_counts_in_the_file_and_beside_it(tmp_path, inside, crs):
    path = write(tmp_path / 'd' / 'a.tif', crs=crs, transform=UTM if crs else None)
    mask = np.full((40, 60), 255, 'uint8')
    mask[:, :20] = 0
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(path, 'r+') as dst:
            dst.write_mask(mask)
    image = open_tiles(path.parent, None if crs else 1)[0].image.numpy()
    assert np.array_equal(image, GROUND * (mask > 0))


def test_a_local_grid_takes_the_gsd_that_is_given(tmp_path):
    local = 'LOCAL_CS["drone (m)",UNIT["metre",1]]'
    path = write(tmp_path / 'd' / 'a.tif', crs=local, transform=from_origin(0, 0, 0.05, 0.05))
    with pytest.raises(ValueError, match='give its GSD'):
        open_tiles(path)
    with pytest.warns(UserWarning, match='gsd=0.05 is taken'):
        tiles = open_tiles(path.parent, 0.05)
    assert tiles.gsds == [0.05] and footprints(tiles) == [None]


def test_limits_that_show_nothing_are_said(tmp_path):
    path = write(tmp_path / 'a.tif', GROUND.astype('uint16') * 40)
    with pytest.warns(UserWarning, match='hardly a pixel'):
        geotiff_tiles(path, how=Windows(limits=(0, 1)))


@pytest.mark.parametrize('name', ['@eaDir', '$RECYCLE.BIN', '__MACOSX', '.hidden', 'lost+found'])
def test_folders_that_systems_make_are_no_classes(tmp_path, name):
    picture(tmp_path / 'd' / 'k' / 'a.png')
    picture(tmp_path / 'd' / 'k' / name / 'thumbnail.jpg')
    picture(tmp_path / 'd' / name / 'b.png')
    (tmp_path / 'd' / 'k' / '._a.png').write_bytes(b'fork')
    tiles = open_tiles(tmp_path / 'd', 1)
    assert len(tiles) == len(audit(tmp_path / 'd', 1).files) == 1 and tiles.classes == ('k',)


def test_readers_and_audit_follow_the_same_links(tmp_path):
    picture(tmp_path / 'real' / 'a.png')
    picture(tmp_path / 'd' / 'k' / 'b.png')
    (tmp_path / 'd' / 'j').symlink_to(tmp_path / 'real')
    (tmp_path / 'd' / 'round').symlink_to(tmp_path / 'd')
    with pytest.warns(UserWarning, match='1 links to folders are not followed'):
        tiles = open_tiles(tmp_path / 'd', 1)
    found = audit(tmp_path / 'd', 1)
    assert sorted(f.path for f in found.files) == sorted(tiles.paths)
    assert len(tiles) == 2 and len(found.links) == 1


@pytest.mark.parametrize('how', ['file', 'folder', 'deep', 'root'])
def test_masks_pair_through_links(tmp_path, how):
    images, masks = tmp_path / 'images', tmp_path / 'masks'
    for k, name in enumerate('ab'):
        picture(images / name / 'x' / '1.png')
        picture(tmp_path / 'store' / name / 'x' / '1.PNG', np.full((40, 60), k, 'uint8'))
    if how == 'root':
        masks.symlink_to(tmp_path / 'store')
    for name in 'ab' if how != 'root' else '':
        target = tmp_path / 'store' / name
        link = masks / name
        if how == 'deep':
            link, target = link / 'x', target / 'x'
        if how == 'file':
            link, target = link / 'x' / '1.PNG', target / 'x' / '1.PNG'
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    (tmp_path / 'store' / 'a' / 'x' / '._1.PNG').write_bytes(b'fork')
    found = mask_tiles(images, masks, 1).masks
    assert [int(read_mask(m).max()) for m in found] == [0, 1]


def test_masks_of_no_image_and_no_folder_are_said(tmp_path):
    picture(tmp_path / 'images' / 'a.png')
    picture(tmp_path / 'masks' / 'a.png', GROUND[0] // 100)
    picture(tmp_path / 'masks' / 'b.png', GROUND[0] // 100)
    with pytest.warns(UserWarning, match='1 masks belong to no image'):
        mask_tiles(tmp_path / 'images', tmp_path / 'masks', 1)
    with pytest.raises(FileNotFoundError, match='folder of masks'):
        mask_tiles(tmp_path / 'images', tmp_path / 'none', 1)


@pytest.mark.parametrize('kind', ['int64', 'float64', 'uint32', 'int8'])
def test_masks_of_any_type_hold_class_numbers(tmp_path, kind):
    classes = GROUND[:1] // 50
    assert np.array_equal(read_mask(write(tmp_path / 'a.tif', classes.astype(kind))), classes[0])


@pytest.mark.parametrize('bits', [1, 2, 4])
@pytest.mark.parametrize('driver', ['GTiff', 'PNG'])
def test_masks_of_few_bits_hold_class_numbers(tmp_path, bits, driver):
    classes = GROUND[:1] >> (8 - bits)
    path = write(tmp_path / 'a.tif', classes, nbits=bits)
    if driver == 'PNG':
        path = tmp_path / 'a.png'
        picture(path, classes[0], bits=bits)
    assert np.array_equal(read_mask(path), classes[0])
