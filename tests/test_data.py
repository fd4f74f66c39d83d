"""Other people's formats: fMoW in both its forms, torch data sets, `open_tiles` over all."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from satdino_nb.data import (
    FMOW_CLASSES,
    Batch,
    DatasetTiles,
    ImageReadError,
    Tiles,
    Windows,
    cache_tiles,
    check_images,
    collate,
    fmow_box,
    fmow_tiles,
    open_tiles,
    same_place,
)
from satdino_nb.gsd import crop_gsd

IMAGE = np.array(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype('uint8')).resize(
        (800, 600)
    )
)
BOXES = [[300, 200, 200, 90], [10, 20, 500, 400]]  # x, y, width, height
TIMES = ['2014-05-12T10:00:00Z', '2016-12-30T09:30:00Z']


@pytest.fixture
def fmow(tmp_path):
    "Two dates of one place in fMoW's original layout, and what usual preprocessing makes of them."
    original, squeezed = (
        tmp_path / 'original' / 'train' / 'zoo' / 'zoo_3',
        tmp_path / 'squeezed' / 'train' / 'zoo' / 'zoo_3',
    )
    original.mkdir(parents=True)
    for k, time in enumerate(TIMES):
        name = f'zoo_3_{k}_rgb'
        Image.fromarray(IMAGE).save(original / f'{name}.jpg')
        boxes = [
            dict(ID=n, category='zoo' if n == 0 else 'airport', box=box)
            for n, box in enumerate(BOXES)
        ]
        (original / f'{name}.json').write_text(
            json.dumps(
                dict(
                    gsd=0.5 + 0.1 * k,
                    img_width=800,
                    img_height=600,
                    timestamp=time,
                    bounding_boxes=boxes,
                )
            )
        )
        for b in boxes:
            folder = squeezed / f'{b["category"]}_{b["ID"]}'
            folder.mkdir(parents=True, exist_ok=True)
            top, left, h, w = fmow_box(b['box'], (600, 800))
            Image.fromarray(IMAGE[top : top + h, left : left + w]).resize((224, 224)).save(
                folder / f'{name}.jpg'
            )
            f = [0.0] * 45
            f[0], f[4:7], f[35:39] = (
                0.5 + 0.1 * k,
                [int(time[:4]), int(time[5:7]) / 12, int(time[8:10]) / 31],
                [*b['box'][2:], 800, 600],
            )
            (folder / f'{name}_features.json').write_text(json.dumps(f))
    return tmp_path


def test_context_follows_the_baselines_rule():
    assert fmow_box([300, 200, 200, 90], (600, 800)) == (
        155,
        270,
        180,
        260,
    )  # 200/600 -> 0.3; 90/800 -> 1
    assert fmow_box([10, 20, 500, 400], (600, 800)) == (0, 0, 450, 547)  # cut off at the upper left
    assert fmow_box([0, 0, 800, 600], (600, 800)) == (0, 0, 600, 800)


def test_both_forms_of_fmow_say_the_same(fmow):
    native, ours, theirs = (
        fmow_tiles(fmow / 'original'),
        fmow_tiles(fmow / 'original', size=224),
        fmow_tiles(fmow / 'squeezed'),
    )
    assert len(native) == len(ours) == len(theirs) == 4 and native.classes == FMOW_CLASSES
    assert native.gsds == native.nominal_gsds and ours.nominal_gsds == native.gsds
    for i in range(4):
        assert native[i].image.shape[1:] == native[i].box[2:] and ours[i].image.shape == (
            3,
            224,
            224,
        )
    assert native.places == ['zoo/zoo_3/0', 'zoo/zoo_3/1'] * 2 and native.times == [
        t for t in TIMES for _ in range(2)
    ]
    assert [g.tolist() for g in same_place(native)] == [[0, 2], [1, 3]] * 2
    by_key = {(p, t[:10]): i for i, (p, t) in enumerate(zip(theirs.places, theirs.times))}
    for i in range(4):
        j = by_key[ours.places[i], ours.times[i][:10]]
        assert theirs.labels[j] == ours.labels[i] and theirs.nominal_gsds[j] == ours.nominal_gsds[i]
        whole = i % 2 == 0  # the other box was cut off at the edge, which the features do not say
        assert theirs.gsds[j] == pytest.approx(ours.gsds[i], rel=1e-9 if whole else 0.08)
    assert ours.gsds[0] == pytest.approx(crop_gsd(0.5, (180, 260), (224, 224)))
    assert (
        abs(
            ours[0].image.float() - theirs[by_key[ours.places[0], TIMES[0][:10]]].image.float()
        ).mean()
        < 3
    ), 'the same cut, but for JPEG'


def test_what_fmow_lacks_is_named(fmow):
    place = fmow / 'original' / 'train' / 'zoo' / 'zoo_3'
    (place / 'zoo_3_0_rgb.jpg').unlink()
    (place / 'zoo_3_1_rgb.json').write_text('{"gsd": 0.5}')
    with pytest.raises(ValueError, match='2 of 2') as e:
        fmow_tiles(fmow / 'original')
    assert 'zoo_3_0_rgb.jpg: no such file' in str(
        e.value
    ) and 'zoo_3_1_rgb.json: unexpected content' in str(e.value)
    with pytest.raises(ValueError, match='original and squeezed'):
        fmow_tiles(fmow)
    with pytest.raises(ValueError, match='squeezed already'):
        fmow_tiles(fmow / 'squeezed', size=112)
    with pytest.raises(ValueError, match='not fMoW'):
        fmow_tiles(fmow / 'original' / 'train' / 'zoo' / 'zoo_3' / 'nothing')


class Samples(Dataset):
    "Samples of any form, by index."

    def __init__(self, *samples):
        self.samples_, self.classes = samples, ('a', 'b')

    def __len__(self):
        return len(self.samples_)

    def __getitem__(self, i):
        return self.samples_[i]


RGB = np.arange(48, dtype='uint8').reshape(4, 4, 3)


@pytest.mark.parametrize(
    'image,options',
    [
        (Image.fromarray(RGB), {}),
        (RGB, {}),
        (torch.from_numpy(RGB).permute(2, 0, 1), {}),
        (torch.from_numpy(RGB).permute(2, 0, 1) / 255, dict(limits=(0, 1))),
        (RGB.astype('uint16') * 100, dict(limits=(0, 25500))),
        (torch.from_numpy(np.concatenate([RGB] * 2, 2)).permute(2, 0, 1), dict(channels=(3, 4, 5))),
        (RGB.astype('float64'), dict(limits=((0, 255),) * 3)),
    ],
    ids=[
        'Pillow',
        'array',
        'tensor',
        'float tensor',
        '16-bit array',
        'six channels',
        'limits by band',
    ],
)
def test_every_form_of_sample(image, options):
    for sample in ((image, 1), dict(image=image, label=torch.tensor(1)), (image, 1, 'more')):
        tile = DatasetTiles(Samples(sample), gsd=2, **options)[0]
        assert (
            tile.label == 1
            and tile.gsd == 2
            and np.array_equal(tile.image.permute(1, 2, 0).numpy(), RGB)
        )
    assert DatasetTiles(Samples(dict(image=image)), **options)[0].label is None


@pytest.mark.parametrize(
    'sample,words',
    [
        ((RGB.astype('float32'), 0), r'limits=\(0, 1\)'),
        ((np.zeros((4, 4, 2), 'uint8'), 0), '2 channels'),
        (dict(picture=RGB), "no 'image', only picture"),
    ],
)
def test_samples_that_need_a_word_more(sample, words):
    with pytest.raises(ImageReadError, match=words) as e:
        DatasetTiles(Samples(sample))[0]
    assert 'Samples[0]' in str(e.value)
    with pytest.raises(ImageReadError, match='1 of 1'):
        check_images(DatasetTiles(Samples(sample)))


@pytest.mark.slow
def test_adapted_data_sets_cross_to_workers():
    tiles = DatasetTiles(
        Samples(*[(torch.full((3, 4, 4), i, dtype=torch.uint8), i % 2) for i in range(6)]),
        gsd=[1, 2, 3, 4, 5, 6],
    ).subset([5, 1, 3])
    (batch,) = DataLoader(
        tiles, batch_size=3, num_workers=1, collate_fn=collate, multiprocessing_context='spawn'
    )
    assert batch.images[:, 0, 0, 0].tolist() == [5, 1, 3] and batch.gsd.tolist() == [6, 2, 4]


@pytest.fixture
def survey(tmp_path):
    "A folder with a GeoTIFF of 80 by 80 pixels at 0.6 m in it."
    rasterio = pytest.importorskip('rasterio')
    place = rasterio.transform.from_origin(5e5, 5.5e6, 0.6, 0.6)
    form = dict(driver='GTiff', height=80, width=80, count=3, dtype='uint8')
    (tmp_path / 'rasters').mkdir()
    path = tmp_path / 'rasters' / 'survey.tif'
    with rasterio.open(path, 'w', crs='EPSG:32633', transform=place, **form) as file:
        file.write(np.random.default_rng(0).integers(1, 255, (3, 80, 80)).astype('uint8'))
    return path


def test_open_tiles_picks_the_reader_of_a_georeferenced_file(survey):
    for source in (survey, survey.parent):
        (tile,) = open_tiles(source)
        assert abs(tile.gsd - 0.6) < 1e-9 and tile.box == (0, 0, 80, 80)
    assert len(open_tiles(survey, how=Windows(size=40))) == 4
    with pytest.warns(UserWarning, match='states its own GSD'):  # which no option overrides
        assert abs(open_tiles(survey, 2.0, how=Windows(size=80))[0].gsd - 0.6) < 1e-9
        assert abs(open_tiles(survey.parent, 2.0)[0].gsd - 0.6) < 1e-9


def test_open_tiles_takes_a_torch_data_set(tmp_path):
    tiles = open_tiles(Samples((RGB, 1), (RGB, 0)), gsd=10)
    assert type(tiles) is DatasetTiles and tiles[1].gsd == 10 and tiles[0].label == 1
    with pytest.raises(ValueError, match='only tiles from files'):
        cache_tiles(tiles, tmp_path)


def test_windows_of_a_mixture_are_settings_of_windows(survey):
    mixture = survey.parents[1] / 'mixture.json'
    part = dict(data='rasters', windows=dict(size=40))
    mixture.write_text(json.dumps([part, dict(data='rasters', gsd=3)]))
    with pytest.warns(UserWarning, match='states its own GSD'):
        tiles = open_tiles(mixture)
    assert len(tiles) == 5 and [round(g, 6) for g in tiles.gsds] == [0.6] * 5
    assert tiles[1].box == (0, 40, 40, 40) and tiles[4].image.shape == (3, 80, 80)
    mixture.write_text(json.dumps([dict(data='rasters', windows=dict(sise=40))]))
    with pytest.raises(ValueError, match=r"part 1 \(rasters\): .*'sise'"):
        open_tiles(mixture)
    with pytest.raises(ValueError, match='a mixture gives each part its own gsd'):
        open_tiles(mixture, gsd=1)


def test_a_column_that_does_not_exist_is_refused():
    with pytest.raises(TypeError, match="no column 'place'; there are paths, gsds"):
        Tiles(['a.png'], [1], place=['here'])
    assert all(f'    {name}: ' in Tiles.__doc__ for name in Tiles.columns)
    assert all(name in Tiles.__annotations__ for name in Tiles.columns)


def test_a_batch_without_labels_says_so_of_each_image():
    batch = Batch(torch.zeros(3, 1, 2, 2), torch.full((3, 2), 2), torch.ones(3), ['a', 'b', 'c'])
    assert len(batch) == 3 and batch.labels.tolist() == [-1, -1, -1]
