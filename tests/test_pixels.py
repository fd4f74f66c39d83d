"""One way from a file to pixels, by what the file is: depth, bands, masks, orientation, scale."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from satdino_nb.data import Tile, Tiles, Windows, audit, collate, open_tiles
from satdino_nb.engine.audits import audit_findings, file_facts
from satdino_nb.engine.images import ImageReadError, Normalisation, read_image, read_mask
from satdino_nb.engine.rasters import geotiff_tiles, has_sidecar, sidecars
from satdino_nb.engine.satvit import SatViT
from satdino_nb.engine.tiles import folder_tiles
from satdino_nb.engine.weights import ViTConfig

rasterio = pytest.importorskip('rasterio')
GROUND = np.random.default_rng(0).integers(1, 250, (4, 40, 60)).astype('uint8')
UTM = dict(crs='EPSG:32633', transform=rasterio.transform.from_origin(5e5, 5.5e6, 0.5, 0.5))


def write(path: Path, values, names=None, place=UTM, driver='GTiff', **more) -> Path:
    "`values` (C, H, W) as a raster file."
    path.parent.mkdir(exist_ok=True)
    form = dict(driver=driver, count=len(values), height=values.shape[1], width=values.shape[2])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, 'w', dtype=values.dtype, **form, **place, **more) as dst:
            dst.descriptions = names or dst.descriptions
            dst.write(values)
    return path


def picture(path: Path, values=GROUND[:3]) -> Path:
    "`values` (3, H, W) as an ordinary picture."
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values.transpose(1, 2, 0)).save(path)
    return path


@pytest.mark.parametrize('count', [1, 3, 4])
@pytest.mark.parametrize('name', ['a.png', 'a.tif', 'a.jp2'])
def test_sixteen_bits_are_stretched_or_refused_by_every_reader(tmp_path, name, count):
    deep = GROUND[:count].astype('uint16') * 16
    driver = dict(png='PNG', tif='GTiff', jp2='JP2OpenJPEG')[name[-3:]]
    more = dict(QUALITY='100', REVERSIBLE='YES') if driver == 'JP2OpenJPEG' else {}
    path = write(tmp_path / 'd' / name, deep, place={}, driver=driver, **more)
    if name != 'a.tif' or count != 4:
        with pytest.raises(ImageReadError, match='open_tiles|not a readable'):
            read_image(path)
    (tmp_path / 'index.csv').write_text(f'file,gsd\nd/{name},2\n')
    for source, gsd in ((path.parent, 2), (path, 2), (tmp_path / 'index.csv', None)):
        with pytest.warns(UserWarning, match='not 8-bit'):
            tiles = open_tiles(source, gsd)
        image = tiles[0].image
        assert image.shape == (3, 40, 60) and tiles.gsds == [2]
        assert image.float().std() > 50, 'the whole range is used'
    assert file_facts(path).dtype == 'uint16'


def test_an_ordinary_folder_stays_with_the_quick_reader(tmp_path):
    picture(tmp_path / 'd' / 'a.png')
    write(tmp_path / 'd' / 'b.tif', GROUND[:3], place={})
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        tiles = open_tiles(tmp_path / 'd', 0.3)
    assert type(tiles) is Tiles and tiles.plain_files and tiles.gsds == [0.3] * 2
    assert torch.equal(tiles[0].image, tiles[1].image)


def test_a_mixed_folder_is_read_file_by_file(tmp_path):
    write(tmp_path / 'd' / 'a.tif', GROUND[:3].astype('uint16') * 9)
    picture(tmp_path / 'd' / 'look.png')
    with pytest.warns(UserWarning, match='look.png.*GSD is unknown'):
        tiles = open_tiles(tmp_path / 'd')
    assert tiles.gsds == [0.5, None] and tiles.boxes == [(0, 0, 40, 60), None]
    assert np.array_equal(tiles[1].image.numpy(), GROUND[:3])
    with pytest.warns(UserWarning, match='states its own GSD'):
        assert open_tiles(tmp_path / 'd', 10).gsds == [0.5, 10]
    with pytest.warns(UserWarning):
        assert geotiff_tiles(tmp_path / 'd', gsd=10).gsds == [0.5, 10]
    notes = {f.path: f.notes for f in audit(tmp_path / 'd', 10).files}
    assert any('states a GSD of 0.5 m' in n for n in notes.values())


@pytest.mark.parametrize('ending', ['pgw', 'pngw', 'wld'])
def test_a_world_file_counts_where_a_crs_lies_beside_it(tmp_path, ending):
    path = picture(tmp_path / 'd' / 'a.png')
    path.with_suffix(f'.{ending}').write_text('0.5\n0\n0\n-0.5\n500000.25\n5499999.75\n')
    assert open_tiles(tmp_path / 'd', 3).gsds == [3]
    wkt = rasterio.crs.CRS.from_epsg(32633).to_wkt().replace('"', '&quot;')
    xml = f'<PAMDataset><SRS>{wkt}</SRS></PAMDataset>'
    (tmp_path / 'd' / 'a.png.aux.xml').write_text(xml)
    if ending != 'pngw':  # GDAL looks for .pgw and .wld
        assert open_tiles(tmp_path / 'd').gsds == [0.5] == geotiff_tiles(path).gsds
        assert file_facts(path).gsd == 0.5


@pytest.mark.parametrize('mode', ['folder', 'file'])
@pytest.mark.parametrize('suffix', ['.gif', '.jfif', '.bmp', '.jp2', '.png', '.webp', '.jpg'])
def test_every_reader_and_the_audit_know_the_same_endings(tmp_path, suffix, mode):
    path = tmp_path / 'd' / f'a{suffix}'
    path.parent.mkdir()
    Image.fromarray(GROUND[:3].transpose(1, 2, 0)).save(path, 'JPEG' if suffix == '.jfif' else None)
    source = path.parent if mode == 'folder' else path
    assert open_tiles(source, 1)[0].image.shape == (3, 40, 60)
    assert geotiff_tiles(source, 1)[0].image.shape == (3, 40, 60)
    found = audit(source, 1)
    assert len(found.good) == 1
    assert not audit_findings(found)['ending does not fit the format']


def test_what_is_passed_over_is_counted(tmp_path):
    picture(tmp_path / 'd' / 'a.png')
    for name in ('b.heic', 'c.HEIC', 'd.dng', 'notes.txt'):
        (tmp_path / 'd' / name).write_text('x')
    with pytest.warns(UserWarning, match=r'passed over 3 files \(2 x .heic, 1 x .dng\)'):
        folder_tiles(tmp_path / 'd')


@pytest.mark.parametrize(
    'names, bands',
    [
        (('blue', 'green', 'red', 'nir'), (3, 2, 1)),
        (('B08', 'B04', 'B03', 'B02'), (2, 3, 4)),
        (('Red Edge', 'Red', 'Green', 'Blue'), (2, 3, 4)),
        (('842 nm', '665 nm', '560 nm', '490 nm'), (2, 3, 4)),
    ],
)
@pytest.mark.parametrize('kind', ['uint8', 'uint16', 'float32'])
def test_names_of_bands_come_before_their_order(tmp_path, names, bands, kind):
    path = write(tmp_path / 'a.tif', GROUND.astype(kind), names)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', '(?s).*marked alpha')
        assert geotiff_tiles(path).bands[str(path)] == bands


def test_nothing_names_the_bands_and_it_is_said(tmp_path):
    path = write(tmp_path / 'a.tif', GROUND.astype('uint16'), ('Band 1', 'Band 2', 'Band 3', 'x'))
    with pytest.warns(UserWarning, match='which of 4 bands'):
        geotiff_tiles(path)
    assert 'which of 4 bands' in file_facts(path).notes


@pytest.mark.parametrize('kind, value', [('uint8', 255), ('uint16', 0), ('int16', -1)])
def test_nodata_is_that_of_the_data_set(tmp_path, kind, value):
    values = GROUND[:3].astype(kind)
    values[:, :5] = value
    values[1, 20:30] = value  # in one band only: data
    path = write(tmp_path / 'a.tif', values, nodata=value)
    image = geotiff_tiles(path, how=Windows(min_valid=0))[0].image
    with rasterio.open(path) as src:
        data = src.dataset_mask() > 0
    assert data[20:30].all() and (image[:, :5] == 0).all()
    assert (image[0, 20:30] > 0).float().mean() > 0.9
    if kind == 'uint8':
        assert np.array_equal(image.numpy() * 1, values * data)


@pytest.mark.parametrize('fill', [-9999, -3.4028235e38, 1e20, 1e30, -32768])
def test_undeclared_fill_values_are_masked_and_said(tmp_path, fill):
    values = GROUND[:3].astype('float32') / 500
    values[:, :, :20] = fill
    path = write(tmp_path / 'd' / 'a.tif', values)
    with pytest.warns(UserWarning, match='not declared as nodata'):
        image = geotiff_tiles(path)[0].image
    assert (image[:, :, :20] == 0).all() and image[:, :, 20:].float().std() > 50
    assert any('not declared' in k for k in audit_findings(audit(tmp_path / 'd')))


def test_tiles_without_ground_are_left_out(tmp_path):
    write(tmp_path / 'd' / 'a.tif', GROUND[:3].astype('float32'))
    write(tmp_path / 'd' / 'nan.tif', np.full((3, 40, 60), np.nan, 'float32'))
    tiles = open_tiles(tmp_path / 'd')
    assert len(tiles) == 1 and tiles.left_out == 1
    assert 'no ground' in file_facts(tmp_path / 'd' / 'nan.tif').notes


@pytest.mark.parametrize('photometric', ['MINISWHITE', 'RGB', 'CMYK'])
def test_two_libraries_see_one_picture(tmp_path, photometric):
    shown = Image.fromarray(GROUND[:3].transpose(1, 2, 0))
    mode = dict(MINISWHITE='L', RGB='RGB', CMYK='CMYK')[photometric]
    values = np.atleast_3d(np.array(shown.convert(mode))).transpose(2, 0, 1)
    path = write(tmp_path / 'a.tif', values, photometric=photometric)
    ours = geotiff_tiles(path)[0].image.int()
    assert (ours - read_image(path).int()).abs().max() <= 2


def test_a_palette_is_expanded(tmp_path):
    path = write(tmp_path / 'a.tif', GROUND[:1] // 32)
    with rasterio.open(path, 'r+') as dst:
        dst.write_colormap(1, {k: (255 - 30 * k, 10 * k, 200, 255) for k in range(8)})
    assert torch.equal(geotiff_tiles(path)[0].image, read_image(path))


def test_bands_of_mixed_types_have_limits_of_their_own(tmp_path):
    write(tmp_path / 'a.tif', GROUND[:1])
    write(tmp_path / 'b.tif', GROUND[:1].astype('uint16') * 16)
    head = '<VRTDataset rasterXSize="60" rasterYSize="40"><SRS>EPSG:32633</SRS>'
    head += '<GeoTransform>500000,1,0,5500000,0,-1</GeoTransform>'
    for k, (kind, name) in enumerate((('Byte', 'a'), ('UInt16', 'b'), ('UInt16', 'b')), 1):
        source = f'<SourceFilename relativeToVRT="1">{name}.tif</SourceFilename>'
        head += f'<VRTRasterBand dataType="{kind}" band="{k}"><SimpleSource>{source}'
        head += '<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>'
    (tmp_path / 'm.vrt').write_text(f'{head}</VRTDataset>')
    tiles = geotiff_tiles(tmp_path / 'm.vrt')
    image = tiles[0].image
    assert tiles.limits[str(tmp_path / 'm.vrt')][0] == (0, 255)
    assert np.array_equal(image[0].numpy(), GROUND[0]) and (image[1] == 255).float().mean() < 0.1


@pytest.mark.parametrize('turn', range(2, 9))
def test_masks_are_turned_like_their_pictures(tmp_path, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    classes = (GROUND[0] > 125).astype('uint8')
    Image.fromarray(classes).save(tmp_path / 'm.png', exif=exif)
    Image.fromarray(classes * 255).save(tmp_path / 'a.png', exif=exif)
    mask = read_mask(tmp_path / 'm.png')
    assert torch.equal(read_image(tmp_path / 'a.png')[0], mask * 255)
    assert tuple(mask.shape) == ((60, 40) if turn > 4 else (40, 60))
    assert 'EXIF' in file_facts(tmp_path / 'a.png').notes


@pytest.mark.parametrize('scale', [1 / 255, 40, 257])
def test_pixels_of_another_scale_do_not_pass(scale):
    wrong = torch.from_numpy(GROUND[:3]).float()[None] * scale
    with pytest.raises(ValueError, match='field.png'):
        collate([Tile(wrong[0], 1, path='field.png')])
    if scale < 1:
        return
    with pytest.raises(ValueError, match='0 to 1'):
        Normalisation((0.4,) * 3, (0.2,) * 3)(wrong)
    model = SatViT(ViTConfig(32, embed_dim=32, depth=1, num_heads=2))
    with pytest.raises(ValueError, match='not normalised'):
        model.tokens(wrong[:, :, :32, :32])


@pytest.mark.parametrize('bits', [1, 8])
@pytest.mark.parametrize('compression', [None, 'tiff_deflate'])
def test_a_mask_where_zero_is_white_keeps_its_numbers(tmp_path, bits, compression):
    numbers = np.arange(64, dtype=np.uint8).reshape(8, 8) % (2 if bits == 1 else 7)
    stored = Image.fromarray(numbers * 255).convert('1') if bits == 1 else Image.fromarray(numbers)
    stored.save(tmp_path / 'm.tif', compression=compression)
    assert torch.equal(read_mask(tmp_path / 'm.tif'), torch.from_numpy(numbers))
    data = bytearray((tmp_path / 'm.tif').read_bytes())
    at = data.index(bytes([0x06, 0x01, 0x03, 0x00, 1, 0, 0, 0]))  # 262, SHORT, one value
    assert data[at + 8] == 1  # 0 is black
    data[at + 8] = 0
    (tmp_path / 'm.tif').write_bytes(data)
    assert torch.equal(read_mask(tmp_path / 'm.tif'), torch.from_numpy(numbers))


def test_a_world_file_belongs_to_its_own_picture(tmp_path):
    for name in ('a.png', 'a.jpg', 'b.jpeg', 'c.JPG'):
        Image.new('RGB', (8, 8), (90, 120, 60)).save(tmp_path / name)
    for name in ('a.pgw', 'b.jgw', 'C.jgw'):
        (tmp_path / name).write_text('2\n0\n0\n-2\n500000\n4600000\n')
    beside = sidecars(tmp_path)
    own = {n: has_sidecar(tmp_path / n, beside) for n in ('a.png', 'a.jpg', 'b.jpeg', 'c.JPG')}
    assert own == {'a.png': True, 'a.jpg': False, 'b.jpeg': True, 'c.JPG': True}


@pytest.mark.parametrize('end', ['msk', 'aux.xml'])
def test_a_mask_or_notes_belong_to_the_whole_name(tmp_path, end):
    for name in ('a.png', 'a.jpg', 'b.png'):
        Image.new('RGB', (8, 8), (90, 120, 60)).save(tmp_path / name)
    (tmp_path / f'A.png.{end}').write_bytes(b'')
    beside = sidecars(tmp_path)
    own = {n: has_sidecar(tmp_path / n, beside) for n in ('a.png', 'a.jpg', 'b.png')}
    assert own == {'a.png': True, 'a.jpg': False, 'b.png': False}
