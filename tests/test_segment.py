"""Segmentation across the library.

Users' masks, other networks, real imagery split by place, the benchmark.
"""

import copy
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from satdino_nb.data import Normalisation, mask_tiles, samples_dir, table_tiles
from satdino_nb.engine.segmentation import pixel_table
from satdino_nb.scenes import SceneDataset
from satdino_nb.segment import (
    LinearSegmenter,
    Masked,
    PyramidSegmenter,
    SegmentConfig,
    confusions,
    in_memory,
    logit_strips,
    majority_result,
    make_segmenter,
    masked_scenes,
    masked_tiles,
    mean_iou,
    predict_mask,
    raw_pixels,
    segment_folds,
    segment_report,
    segment_result,
    train_segmenter,
)
from satdino_nb.vit import as_backbone, load_satdino

torch.set_num_threads(1)
CPU = SegmentConfig(steps=30, batch_size=8, overlap=0, device='cpu')
TWO = ('other', 'building')


@pytest.fixture(scope='module')
def model():
    return load_satdino('satdino-nano')


@pytest.fixture(scope='module')
def scenes():
    "Training and test scenes of different worlds."
    return [
        in_memory(masked_scenes(SceneDataset(n, gsd=(0.3, 1.0), size=96, masks=True, seed=seed)))
        for n, seed in ((40, 3), (15, 4))
    ]


@pytest.fixture
def files(tmp_path):
    "Writes an image and a mask of given values under one name; gives their tiles."

    def write(mask, hw=(16, 24), mode=None):
        for name in ('images', 'masks'):
            (tmp_path / name).mkdir(exist_ok=True)
        Image.new('RGB', hw[::-1], (90, 120, 60)).save(tmp_path / 'images' / 'field.jpg')
        Image.fromarray(np.asarray(mask, dtype=np.uint8), mode).save(
            tmp_path / 'masks' / 'field.png'
        )
        return mask_tiles(tmp_path / 'images', tmp_path / 'masks', 0.5)

    return write


@pytest.fixture(scope='module')
def bench(repo):
    "bench/segmentation.py as a module."
    spec = importlib.util.spec_from_file_location(
        'bench_segmentation', repo / 'bench' / 'segmentation.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# masks as users have them


def test_a_mask_of_another_size_names_both_files(files, tmp_path):
    with pytest.raises(ValueError, match=r'field\.jpg.*16, 24.*its mask has .*16, 23'):
        files(np.zeros((16, 23)))
    tiles = files(np.zeros((16, 24)))
    Image.new('L', (24, 15)).save(tmp_path / 'masks' / 'field.png')  # changed after it was listed
    with pytest.raises(
        ValueError,
        match=r'field\.jpg \(mask .*field\.png\): 16 x 24 pixels, but its mask has 15 x 24',
    ):
        masked_tiles(tiles, TWO)[0]


def test_values_outside_the_classes_name_the_file_and_the_way_out(files):
    mask = np.zeros((16, 24))
    mask[3, 4], mask[5] = 7, 255
    with pytest.raises(
        ValueError,
        match=r'field\.png\): its mask holds 7, but 2 classes are numbered '
        r'0 to 1 \(255: ignored\).*colours=',
    ):
        masked_tiles(files(mask), TWO)[0]
    mask[3, 4] = 1
    image, read, gsd = masked_tiles(files(mask), TWO)[0]
    assert read.unique().tolist() == [0, 1, 255] and gsd == 0.5 and image.shape == (3, 16, 24)


def test_a_colour_outside_the_legend_is_an_error_or_is_ignored(files):
    mask = np.zeros((16, 24, 3))
    mask[:8], mask[8, 0] = (60, 16, 152), (1, 2, 3)
    tiles, legend = files(mask), ('000000', '3C1098')
    with pytest.raises(ValueError, match=r'field\.png: colours outside the legend: 010203.*other='):
        masked_tiles(tiles, TWO, legend)[0]
    read = masked_tiles(tiles, TWO, legend, other=255)[0][1]
    assert (read == 1).sum() == 8 * 24 and (read == 255).sum() == 1
    with pytest.raises(ValueError, match=r'field\.png: a mask in colours'):
        masked_tiles(tiles, TWO)[0]


def test_masks_of_0_and_255_without_a_legend_do_not_pass_as_ignored(files, model):
    "The common binary mask, whose 255 means the class, would be ignored altogether."
    mask = np.zeros((16, 24))
    mask[:8] = 255
    blank = Masked(
        [(torch.zeros(3, 64, 64, dtype=torch.uint8), torch.zeros(64, 64, dtype=torch.uint8), 0.5)],
        TWO,
    )
    with pytest.raises(ValueError, match=r'the masks hold other and 255 \(ignored\).*colours='):
        segment_report(model, masked_tiles(files(mask), TWO), blank, CPU)
    assert masked_tiles(files(mask), TWO, ('000000', 'FFFFFF'))[0][1].float().mean() == 0.5


def test_images_without_masks_and_damaged_masks(files, tmp_path):
    tiles = files(np.zeros((16, 24)))
    damaged = copy.copy(tiles)
    (tmp_path / 'masks' / 'field.png').write_bytes(b'no picture')
    with pytest.raises(ValueError, match=r'field\.png: not a readable mask'):
        masked_tiles(damaged, TWO)[0]
    tiles.masks = [None]
    with pytest.raises(ValueError, match=r'field\.jpg: no mask \(1 of 1 images\)'):
        masked_tiles(tiles, TWO)


def test_a_table_with_boxes_cuts_the_masks_too(tmp_path):
    values = np.arange(16 * 24).reshape(16, 24) % 2
    Image.fromarray(np.stack([values * 255] * 3, -1).astype(np.uint8)).save(tmp_path / 'a.png')
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / 'm.png')
    (tmp_path / 't.csv').write_text(
        'file,mask,gsd,top,left,height,width,place\na.png,m.png,0.3,2,3,8,10,north\n'
    )
    data = masked_tiles(table_tiles(tmp_path / 't.csv'), TWO)
    image, mask, _ = data[0]
    assert mask.shape == (8, 10) and torch.equal(mask, image[0] // 255) and data.places == ['north']


def test_legends_that_cannot_be():
    item = [(torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.uint8), None)]
    for kw, said in (
        (dict(classes=('one',)), 'at least two classes'),
        (dict(classes=TWO, colours=['000000']), '1 colours for 2'),
        (dict(classes=TWO, ignore_index=1), "'building'"),
        (dict(classes=TWO, ignore_index=-100), 'fit a byte'),
        (dict(classes=TWO, places=['a', 'b']), '2 places for 1'),
    ):
        with pytest.raises(ValueError, match=said):
            Masked(item, **kw)
    for image, mask, said in (
        (torch.full((3, 8, 8), float('nan')), item[0][1], 'torch.float32.*uint8'),
        (item[0][0], torch.full((8, 8), float('nan')), 'whole numbers'),
        (item[0][0], item[0][1][None], 'whole numbers'),
    ):
        with pytest.raises(ValueError, match=said):
            Masked([(image, mask, None)], TWO)[0]


# training


def test_settings_that_cannot_work(model, scenes):
    train, test = scenes
    for change, said in (
        (dict(crop=60), '60 px is not a multiple of the patch size 8; 56'),
        (dict(crop=4), 'patch size 8; 8'),
    ):
        with pytest.raises(ValueError, match=said):
            segment_report(model, train, test, SegmentConfig(steps=1, device='cpu', **change))
    for bad in (dict(steps=0), dict(batch_size=0), dict(overlap=1.0), dict(crop=0)):
        with pytest.raises(ValueError):
            SegmentConfig(**bad)
    with pytest.raises(
        ValueError, match='40 places are in training and test, e.g. scene 0 of seed 3'
    ):
        segment_report(model, train, train, CPU)


def test_features_that_are_not_finite_stop_training_and_prediction(model, scenes):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.norm.weight[0] = float('nan')
    segmenter = make_segmenter(broken, 8)
    with pytest.raises(ValueError, match='loss is nan at step 0'):
        train_segmenter(segmenter, scenes[0], CPU)
    with pytest.raises(ValueError, match='not finite at rows 0 to 64'):
        predict_mask(segmenter, scenes[1][0][0], 64)


@pytest.mark.parametrize('head', ['linear', 'pyramid'])
@pytest.mark.slow
def test_a_short_run_learns_repeats_itself_and_leaves_the_backbone_as_it_was(model, scenes, head):
    train, test = scenes
    before = copy.deepcopy(model.state_dict())
    runs = [make_segmenter(model, 8, head) for _ in range(2)]
    losses = [train_segmenter(s, train, CPU) for s in runs]
    assert losses[0] == losses[1] and np.mean(losses[0][-5:]) < 0.8 * np.mean(losses[0][:5])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    moved = [
        not torch.equal(v, before[k])
        for k, v in runs[0].backbone.state_dict().items()
        if k.startswith('blocks.')
    ]
    assert all(moved) if head == 'pyramid' else not any(moved)
    result = segment_result(runs[0], test, CPU)
    assert np.array_equal(result.confusions, segment_result(runs[1], test, CPU).confusions)
    assert result.minus(majority_result(train, result), resamples=200).low > 0


def test_crops_without_a_labelled_pixel_make_no_nan(model, scenes):
    "Some crops here hold no labelled pixel, and are a batch of their own."
    image, mask, gsd = scenes[0][0]
    hidden = torch.full_like(mask, 255)
    hidden[:2, :2] = torch.tensor([[0, 1], [1, 0]])
    data = Masked([(image, hidden, gsd)], scenes[0].classes)
    losses = train_segmenter(
        make_segmenter(model, 8), data, SegmentConfig(steps=12, batch_size=1, crop=16, device='cpu')
    )
    assert np.isfinite(losses).all() and 0 in losses


@pytest.mark.slow
def test_loading_processes_change_nothing(model, scenes):
    runs = [
        train_segmenter(
            make_segmenter(model, 8),
            scenes[0],
            SegmentConfig(steps=3, batch_size=4, device='cpu', workers=w),
        )
        for w in (0, 2)
    ]
    assert runs[0] == runs[1]


def test_folds_are_the_reports_of_each_fold_in_the_order_of_the_images(model, scenes):
    data, config = scenes[1], SegmentConfig(steps=3, batch_size=4, overlap=0, device='cpu')
    folds = [k % 2 for k in range(len(data))]
    joined = segment_folds(model, data, folds, config)
    odd, even = ([k for k in range(len(data)) if k % 2 == side] for side in (1, 0))
    alone = segment_report(model, data.subset(even), data.subset(odd), config)
    assert joined.places == tuple(data.places) and np.array_equal(
        joined.confusions[odd], alone.confusions
    )
    assert np.array_equal(joined.confusions.sum(2)[4], data[4][1].flatten().bincount(minlength=8))
    with pytest.raises(ValueError, match='at least two folds'):
        segment_folds(model, data, [0] * len(data), config)
    with pytest.raises(ValueError, match='2 folds for 15 images'):
        segment_folds(model, data, [0, 1], config)


# other networks


@pytest.mark.slow
@pytest.mark.parametrize('head', ['linear', 'pyramid'])
def test_a_timm_network_in_both_heads(scenes, head):
    import timm

    torch.manual_seed(0)
    network = timm.create_model('vit_tiny_patch16_224', pretrained=False, img_size=64, depth=5)
    peer = as_backbone(network, Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
    train, test = scenes
    result = segment_report(
        peer,
        train,
        test,
        SegmentConfig(steps=20, batch_size=8, overlap=0, device='cpu'),
        head,
        'timm',
    )
    assert result.confusions.sum() == sum(
        m.numel() for _, m, _ in test.items
    ) and result.confusions.shape == (15, 8, 8)
    assert (
        result.estimate(resamples=10).value
        > majority_result(train, result).estimate(resamples=10).value
    )
    assert (PyramidSegmenter if head == 'pyramid' else LinearSegmenter)(peer, 8).patch == 16


def test_networks_that_cannot_be_segmented_with(model):
    vector = as_backbone(lambda x: x.mean((2, 3)), Normalisation((0, 0, 0), (1, 1, 1)), 64)
    with pytest.raises(ValueError, match='one vector for an image'):
        LinearSegmenter(vector, 2)
    with pytest.raises(ValueError, match='blocks of a vision transformer'):
        PyramidSegmenter(raw_pixels(model), 2)


def test_a_network_that_reads_the_gsd_is_told_it(scenes):
    "A peer whose tokens are the GSD: it reaches the network, and NaN stops it."

    class Reads(torch.nn.Module):
        def forward(self, x, gsd):
            return gsd.view(-1, 1, 1, 1).expand(-1, 2, x.shape[2] // 8, x.shape[3] // 8).clone()

    peer, told = as_backbone(Reads(), Normalisation((0, 0, 0), (1, 1, 1)), 64), []
    original = peer.tokens
    peer.tokens = lambda x, gsd: (told.extend(gsd.tolist()), original(x, gsd))[1]
    segmenter = LinearSegmenter(peer, 2).eval()
    told.clear()
    predict_mask(segmenter, torch.zeros(3, 64, 64, dtype=torch.uint8), 64, gsd=0.7)
    assert told == pytest.approx([0.7])
    with pytest.raises(ValueError, match='reads the GSD'):
        predict_mask(segmenter, torch.zeros(3, 64, 64, dtype=torch.uint8), 64)


# large tiles


def test_memory_follows_the_width_not_the_height():
    """A long picture is answered in full, in parts that fit.

    No strip is higher than a window, no batch larger than asked.
    """
    batches = []

    def colour(x, gsd):
        batches.append(len(x))
        return x.float()

    picture = torch.randint(256, (3, 700, 90), dtype=torch.uint8)
    strips = list(logit_strips(colour, picture, 32, 16, batch_size=4))
    assert (
        max(v.shape[1] for _, v in strips) <= 32
        and max(batches) <= 4
        and [top for top, _ in strips] == sorted({*range(0, 669, 16), 668})
    )
    assert torch.allclose(torch.cat([v for _, v in strips], 1), picture.float(), atol=1e-2)


def test_ignored_pixels_and_absent_classes_in_the_score():
    theirs = pytest.importorskip('torchmetrics.functional.classification')
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(3, (4, 50, 70), generator=generator)
    truth[torch.rand(truth.shape, generator=generator) < 0.3] = 255
    images = torch.randint(256, (4, 3, 50, 70), dtype=torch.uint8, generator=generator)
    data = Masked([(i, t.to(torch.uint8), None) for i, t in zip(images, truth)], 'abcd')
    answer = lambda x, gsd: torch.cat([x.float(), torch.zeros_like(x[:, :1]).float()], 1)
    tables = confusions(answer, data, 32)
    said = torch.stack([predict_mask(answer, i, 32) for i in images]).long()
    assert tables.sum() == (truth != 255).sum()
    counted = theirs.multiclass_confusion_matrix(said, truth, 4, ignore_index=255)
    assert torch.equal(tables.sum(0), counted)
    iou = theirs.multiclass_jaccard_index(said, truth, 4, average='macro', ignore_index=255)
    assert mean_iou(tables.sum(0)) == pytest.approx(iou.item(), abs=1e-6)


@pytest.mark.parametrize('ignore_index', [255, 0])  # also one of the numbers of the classes
def test_a_table_of_pixels_counted_by_hand(ignore_index):
    truth = torch.tensor([[0, 1, 2], [2, 255, 0]], dtype=torch.uint8)
    said = torch.tensor([[0, 2, 2], [1, 1, 2]], dtype=torch.uint8)
    truth[truth == 255] = ignore_index
    table = pixel_table(truth, said, 3, ignore_index)
    first = [1, 0, 1] if ignore_index else [0, 0, 0]
    assert table.tolist() == [first, [0, 0, 1], [0, 1, 1]]


def test_a_segmenter_that_knows_more_classes_is_refused():
    "Its numbers would be counted in the next row of the table."
    image = torch.zeros(3, 20, 20, dtype=torch.uint8)
    data = Masked([(image, torch.zeros(20, 20, dtype=torch.uint8), None)], 'ab')
    answer = lambda x, gsd: torch.stack([x[:, 0] + 0.0, x[:, 0] + 0.0, x[:, 0] + 1.0], 1)
    with pytest.raises(ValueError, match='class numbers 0 to 2 .* but 2 classes are named'):
        confusions(answer, data, 20)


# real imagery


@pytest.mark.slow
def test_dubai_split_by_tile(shared, bench, model):
    data, tile = bench.dubai(shared('data/dubai_segmentation'))
    assert (
        len(data) == 36
        and sorted(set(tile)) == ['tile1', 'tile2', 'tile3', 'tile4']
        and data.places == tile
    )
    some = in_memory(data.subset([0, 4, 9, 13, 18, 22]))
    held = in_memory(data.subset([27]))  # a part of the fourth tile
    assert not {*some.places} & {*held.places} and np.isnan(held[0][2])
    assert {v for i in range(6) for v in some[i][1].unique().tolist()} == {0, 1, 2, 3, 4, 255}
    result = segment_report(model, some, held, CPU)
    assert result.confusions.sum() == (held[0][1] != 255).sum()
    assert (
        result.estimate(resamples=10).value
        > majority_result(some, result).estimate(resamples=10).value
    )
    with pytest.raises(ValueError, match='places are in training and test, e.g. tile1'):
        segment_folds(model, data, list(range(36)), CPU)


@pytest.mark.slow
def test_no_ground_of_the_building_tiles_is_on_both_sides(shared, bench, model):
    data, columns = bench.buildings(shared('data/buildings_pyramid'))
    assert len(data) == 147 and len(set(data.places)) == 7 and len(set(columns)) == 4

    def ground(i):
        "The zoom-21 map tiles that an image covers."
        *_, x, y, z = Path(data.names[i].split(' (')[0]).stem.split('-')
        n = 2 ** (21 - int(z))
        return {(int(x) * n + a, int(y) * n + b) for a in range(n) for b in range(n)}

    for column in set(columns):
        inside, outside = (
            set().union(*(ground(i) for i in range(147) if (columns[i] == column) == side))
            for side in (True, False)
        )
        assert inside and outside and not inside & outside
    even, odd = (set().union(*(ground(i) for i in range(start, 147, 2))) for start in (0, 1))
    assert even & odd, 'without regard to place, ground would be shared'
    gsds = {round(data[i][2], 4) for i in (0, 7, 35)}
    assert gsds == {0.2986, 0.1493, 0.0746}
    train, test = (
        in_memory(
            data.subset(i for i in range(147) if (columns[i] == 309613) == held and i % 3 == 0)
        )
        for held in (False, True)
    )
    result = segment_report(
        model, train, test, SegmentConfig(steps=60, batch_size=8, overlap=0, device='cpu')
    )
    assert set(result.places) == {'(309613, 261632)', '(309613, 261633)'} and {
        str(g)[:4] for _, _, g in test.items
    } >= {'0.14', '0.07'}
    assert (
        result.estimate(resamples=10).value
        > majority_result(train, result).estimate(resamples=10).value
    )


@pytest.mark.slow
def test_the_benchmark_runs_and_says_what_it_did(repo, tmp_path):
    "On drawn places in the colours and under the names of Dubai."
    for name in ('images', 'masks'):
        (tmp_path / name).mkdir()
    colours = np.array(
        [
            tuple(bytes.fromhex(c))
            for c in ('3C1098', '8429F6', '6EC1E4', 'FEDD3A', 'E2A929', '9B9B9B')
        ],
        dtype=np.uint8,
    )
    for k, place in enumerate(('river', 'harbour', 'residential', 'industrial')):
        name = f'tile{k // 2 + 1}_image_part_00{k % 2 + 1}'
        Image.open(samples_dir() / 'places' / f'{place}.jpg').crop((100, 100, 200, 180)).save(
            tmp_path / 'images' / f'{name}.jpg'
        )
        mask = np.array(
            Image.open(samples_dir() / 'places' / f'{place}_mask.png').crop((100, 100, 200, 180))
        )
        Image.fromarray(colours[mask % 6]).save(tmp_path / 'masks' / f'{name}.png')
    command = [
        sys.executable,
        str(repo / 'bench' / 'segmentation.py'),
        '--dubai',
        str(tmp_path),
        '--steps',
        '2',
        '--seeds',
        '1',
        '--overlap',
        '0',
        '--out',
        str(tmp_path / 'r.json'),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {'PYTHONPATH': str(repo)}
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / 'r.json').read_text())
    assert (
        '| pyramid, fine-tuned SatDINO |' in done.stdout
        and set(report['dubai']['folds']) == {'tile1', 'tile2'}
        and report['settings']['steps'] == 2
    )
    assert np.array(report['dubai']['results']['linear, SatDINO']['confusions']).shape == (4, 5, 5)
    assert str(tmp_path) not in (tmp_path / 'r.json').read_text()
