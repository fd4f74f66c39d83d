"""Evaluation from end to end.

The command, real data sets, peers, features that are kept, and what cannot work.
"""

import csv
import json
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import timm
import torch
from torch import nn

from satdino_nb.classify import scale_sizes
from satdino_nb.data import (
    FMOW,
    Tiles,
    Windows,
    geotiff_tiles,
    ground_squares,
    sample_tiles,
    samples_dir,
    split_tiles,
)
from satdino_nb.engine import evaluation
from satdino_nb.engine.checkpoints import fingerprint
from satdino_nb.evaluate import (
    BASELINES,
    PROTOCOLS,
    Baseline,
    Contender,
    Setup,
    ask,
    evaluate,
    extract_features,
    knn_predict,
    main,
    open_model,
)
from satdino_nb.intervals import difference
from satdino_nb.vit import as_backbone, load_satdino

WEIGHTS = 'satdino-nano'


def command(*args):
    return subprocess.run(
        [sys.executable, '-m', 'satdino_nb.evaluate', *map(str, args)],
        text=True,
        capture_output=True,
        timeout=600,
    )


def table(path, tiles, **more):
    with path.open('w', newline='') as f:
        rows = csv.writer(f)
        rows.writerow(('file', 'class', 'gsd', *more))
        rows.writerows(
            (p, tiles.classes[y], g, *(v[i] for v in more.values()))
            for i, (p, y, g) in enumerate(zip(tiles.paths, tiles.labels, tiles.gsds))
        )
    return path


@pytest.fixture
def split_table(tmp_path):
    train, test = sample_tiles('train'), sample_tiles('test')
    both = Tiles(
        train.paths + test.paths, train.gsds + test.gsds, train.labels + test.labels, train.classes
    )
    return table(
        tmp_path / 'samples.csv', both, split=['train'] * len(train) + ['test'] * len(test)
    )


@pytest.mark.slow
def test_the_command_leaves_a_report(split_table, tmp_path):
    out = tmp_path / 'report'
    done = command(
        '--models',
        WEIGHTS,
        '--data',
        split_table,
        '--protocols',
        'knn',
        'scales',
        'logistic',
        'few',
        '--counts',
        1,
        5,
        '--out',
        out,
        '--workers',
        0,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((out / 'results.json').read_text())['results']
    assert len(list(csv.DictReader((out / 'results.csv').open()))) == len(rows)
    value = {
        (r['model'], r['protocol'], r['setting'], r['metric']): r
        for r in rows
        if r['kind'] == 'value'
    }
    model = 'satdino-nano'
    train, test = (
        extract_features(load_satdino(WEIGHTS), sample_tiles(s)) for s in ('train', 'test')
    )
    right = (
        (knn_predict(train.cls, train.labels, test.cls).argmax(1) == test.labels)
        .float()
        .mean()
        .item()
    )
    assert value[model, 'knn', 'k 20', 'accuracy']['value'] == pytest.approx(right, abs=1e-6)
    same = [
        value[model, 'scales', s, 'accuracy']['value'] for s in ('100 %', '50 %', '25 %', '12.5 %')
    ]
    assert value[model, 'scales', 'mean', 'accuracy']['value'] == pytest.approx(np.mean(same))
    assert value['untrained', 'knn', 'k 20', 'accuracy']['interval'] == 'range over seeds'
    less = [
        r
        for r in rows
        if (r['kind'], r['protocol'], r['model']) == (f'difference to {model}', 'knn', 'pixels')
    ]
    assert less[0]['high'] < 0, 'pixels are worse than the model on the same images'
    for r in rows:
        assert r['low'] <= r['value'] + 1e-9, r
    assert {
        'confusion.png',
        'worst_pairs.png',
        'cross_scale.png',
        'few_labels.png',
        'reliability_logistic.png',
        'report.md',
    } <= {p.name for p in out.iterdir()}
    assert all(name in done.stdout for name in (model, 'untrained', *BASELINES))


@pytest.mark.parametrize(
    'args,words',
    [
        (['--models', WEIGHTS], ['--data', '--train', '--run']),
        ([], ['--models', '--run']),
        (['--models', WEIGHTS, '--train', 'TABLE', '--data', 'TABLE'], ['--data', '--train']),
        (['--models', WEIGHTS, '--data', 'TABLE', '--protocols', 'umap'], ['umap', 'knn']),
        (['--models', WEIGHTS, '--data', 'TABLE', '--ks', 1000], ['1000', '270']),
        (['--models', 'absent.safetensors', '--data', 'TABLE'], ['absent.safetensors', 'no such']),
        (['--models', WEIGHTS, '--data', 'absent.csv'], ['absent.csv', 'no such']),
        (
            ['--models', WEIGHTS, '--train', 'TABLE', '--test', 'OTHER'],
            ['volcano', 'no training tile'],
        ),
        (
            [
                '--models',
                WEIGHTS,
                '--data',
                samples_dir() / 'scenes',
                '--gsd',
                2,
                '--split',
                'place',
            ],
            ['no place'],
        ),
        (
            [
                '--models',
                WEIGHTS,
                '--data',
                samples_dir() / 'scenes',
                '--gsd',
                2,
                '--split',
                'class',
            ],
            ['no training tile'],
        ),
        (['--run', 'absent', '--data', 'TABLE'], ['absent', 'no run']),
    ],
    ids=lambda v: ' '.join(str(x) for x in v)[-40:],
)
def test_what_cannot_work_is_said(args, words, split_table, tmp_path):
    few = sample_tiles('test').subset(range(4))
    few.classes = ('volcano', *few.classes[1:])
    named = {'TABLE': split_table, 'OTHER': table(tmp_path / 'other.csv', few)}
    with pytest.raises(SystemExit) as stopped:
        main([str(named.get(a, a)) for a in args])
    assert all(w in str(stopped.value) for w in words), stopped.value


def test_sizes_of_the_four_scales():
    "The rule of the released code on its data sets' image sizes."
    assert scale_sizes(64, 16) == [64, 32, 16, 16] and scale_sizes(64, 8) == [
        64,
        32,
        16,
        8,
    ]  # EuroSAT
    assert scale_sizes(256, 16) == [256, 128, 64, 32] and scale_sizes(200, 16) == [
        192,
        96,
        48,
        16,
    ]  # RESISC45, SIRI-WHU
    assert scale_sizes(600, 8) == [600, 296, 144, 72] and scale_sizes(512, 16) == [
        512,
        256,
        128,
        64,
    ]


@pytest.mark.slow
@pytest.mark.parametrize('protocol', ['knn', 'logistic'])
def test_hand_made_features_beat_the_colour_histogram_on_eurosat(protocol, shared):
    root, most = shared('data/eurosat'), 100
    listed = sorted((root / 'train.txt').read_text().split())  # the test list is not asked here
    names = [f.split('/')[1] for f in listed]
    classes = sorted(set(names))

    def some(start):
        "Every second tile of the first `2 * most` of each class of the training list."
        few = [
            i
            for c in classes
            for i in [k for k, n in enumerate(names) if n == c][start : 2 * most : 2]
        ]
        return Tiles(
            [str(root / listed[i]) for i in few],
            [10.0] * len(few),
            [classes.index(names[i]) for i in few],
            tuple(classes),
        )

    setup = Setup(some(0), some(1))
    assert len(setup.train) == len(setup.test) == 10 * most
    right = {
        name: ask(Contender(name, [Baseline(name)]), protocol, setup)[0][0].outcome.values
        for name in BASELINES
    }
    gap = difference(right['hand-made features'], right['colour histogram'], unit='%')
    assert gap.low > 0, f'hand-made features less colour histogram, same images: {gap}'
    assert right['hand-made features'].mean() > right['pixels'].mean()


@pytest.mark.slow
def test_four_scales_on_eurosat(shared):
    "From JPEG files to the mean of four scales, on a part of the given split."
    root = shared('data/eurosat')
    parts = []
    for name, most in (('train', 600), ('val', 200)):
        files = sorted((root / f'{name}.txt').read_text().split())
        chosen = [files[i] for i in np.linspace(0, len(files) - 1, most).astype(int)]
        classes = sorted({f.split('/')[1] for f in files})
        parts.append(
            Tiles(
                [root / f for f in chosen],
                [10] * most,
                [classes.index(f.split('/')[1]) for f in chosen],
                classes,
            )
        )
    report = evaluate(
        WEIGHTS, *parts, protocols=('knn', 'scales', 'gsd'), untrained_seeds=1, progress=False
    )
    assert not report.problems
    for protocol, setting in (('knn', 'k 20'), ('scales', 'mean')):
        assert report.value('satdino-nano', protocol, setting).low > 0.25 > 0.1, 'far above chance'
    assert (
        report.value('satdino-nano', 'gsd', 'GSD token', 'R2 of log GSD').n == 200
    )  # of random crops: all tiles have one GSD


@pytest.mark.slow
def test_uc_merced_by_neighbours(shared):
    root = shared('data/ucmerced')
    classes = sorted(p.name for p in root.iterdir() if p.is_dir())

    def read(name):
        lines = (root / name).read_text().split()
        return Tiles(
            [root / f for f in lines],
            [0.3048] * len(lines),
            [classes.index(f.split('/')[0]) for f in lines],
            classes,
        )

    report = evaluate(
        WEIGHTS, read('train.txt'), read('val.txt'), untrained_seeds=1, progress=False, ks=(1, 5)
    )
    assert (
        report.value('satdino-nano', 'knn', 'k 1').n == 168
        and report.value('satdino-nano', 'knn', 'k 1').low > 1.5 / 21
    )


@pytest.mark.slow
def test_a_split_by_location(shared, tmp_path):
    "Windows of georeferenced files, in squares of the ground; the intervals are over squares."
    tiles = geotiff_tiles(shared('data/neon_0.1m'), how=Windows(size=100), on_error='skip')
    placed = ground_squares(tiles, 20)
    rest, held = split_tiles(placed, 0.3, by='place')
    assert set(rest.places).isdisjoint(held.places) and len(set(placed.places)) > 20
    mean = lambda t: [int(t[i].image.float().mean() > 110) for i in range(len(t))]
    for part in (rest, held):
        part.labels, part.classes = mean(part), ('dark', 'bright')
    report = evaluate(WEIGHTS, rest, held, baselines=False, progress=False, ks=(5,))
    assert (
        report.settings['places']
        == len(set(held.places))
        == report.value('satdino-nano', 'knn', 'k 5').n
        < len(held)
    )
    assert report.value('satdino-nano', 'knn', 'k 5').value > 0.6


@pytest.mark.slow
def test_a_peer_of_one_size_does_not_end_the_others():
    torch.manual_seed(0)
    stiff = as_backbone(
        timm.create_model('vit_tiny_patch16_224', num_classes=0, img_size=32, depth=2)
    )
    report = evaluate(
        {'ours': WEIGHTS, 'stiff': stiff},
        sample_tiles('train'),
        sample_tiles('test'),
        protocols=('knn', 'scales'),
        baselines=False,
        progress=False,
    )
    assert report.value('stiff', 'knn', 'k 20') and report.value('ours', 'scales', 'mean')
    assert [p for p in report.problems if p.startswith('stiff, scales')] == report.problems and len(
        report.problems
    ) == 1


def test_timm_models_by_name(monkeypatch):
    "Without the download: a network for any size, and one that knows no such setting."
    make, tiles = timm.create_model, sample_tiles('test').subset(range(3))
    monkeypatch.setattr(
        timm, 'create_model', lambda name, pretrained, **kw: make(name, pretrained=False, **kw)
    )
    for name in ('vit_tiny_patch16_224', 'resnet18'):
        model = open_model(f'timm:{name}')
        for size in (64, 32):
            assert extract_features(model, tiles, size).cls.shape == (3, model.config.embed_dim)


class ReadsScale(nn.Module):
    "A network that is told the GSD."

    def __init__(self):
        super().__init__()
        self.p = nn.Conv2d(3, 4, 8, 8)

    def forward(self, x, gsd):
        return torch.cat([self.p(x).mean((2, 3)), gsd[:, None]], 1)


def test_a_peer_that_reads_the_gsd_is_told_that_of_its_input():
    tiles = sample_tiles('test').subset(range(6))
    f = extract_features(as_backbone(ReadsScale(), FMOW, img_size=64), tiles, size=32)
    assert torch.allclose(
        f.cls[:, 4].double(), torch.tensor(tiles.gsds).double() * 128 / 32, rtol=1e-5
    )
    unknown = sample_tiles('test').subset(range(6))
    unknown.gsds[2] = None
    with pytest.raises(ValueError, match='GSD'):
        extract_features(as_backbone(ReadsScale(), FMOW, img_size=64), unknown)


@pytest.mark.slow
def test_segmentation_in_a_report(tmp_path):
    "Places of the samples, from a table with a column of masks, split by place, by the command."
    from satdino_nb.scenes import MASK_CLASSES

    places = sample_tiles('place')
    path = table(
        tmp_path / 'places.csv',
        places,
        mask=[p.replace('.jpg', '_mask.png') for p in places.paths],
        place=[p.rpartition('/')[2] for p in places.paths],
    )
    args = [
        '--models',
        WEIGHTS,
        '--data',
        path,
        '--split',
        'place',
        '--held-out',
        0.34,
        '--protocols',
        'segment',
        '--workers',
        0,
        '--untrained-seeds',
        1,
    ]
    short = [
        '--segmenting.steps',
        40,
        '--segmenting.batch-size',
        4,
        '--segmenting.overlap',
        0,
        '--mask-classes',
        *MASK_CLASSES,
    ]
    done = command(*args, *short, '--out', tmp_path / 'report')
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / 'report' / 'results.json').read_text())['results']
    value = {(r['model'], r['setting']): r for r in rows if r['kind'] == 'value'}
    for model in ('satdino-nano', 'untrained', 'pixels'):
        assert 0 < value[model, 'mIoU']['value'] < 1 and value[model, 'mIoU']['n'] == 2
        each = [value[model, c]['value'] for c in MASK_CLASSES]
        assert value[model, 'mIoU']['value'] == pytest.approx(np.nanmean(each), abs=1e-6)
    assert (
        any(r['kind'] == 'difference to satdino-nano' and r['setting'] == 'mIoU' for r in rows)
        and (tmp_path / 'report' / 'iou_segment.png').exists()
    )
    for more, word in ((['--mask-classes', 'a', 'b'], '_mask.png'), ([], 'mask_classes')):
        with pytest.raises(SystemExit) as stopped:
            main([str(a) for a in (*args, *more)])
        assert word in str(stopped.value)


KILLED = """
import sys, time
from satdino_nb.data import sample_tiles
from satdino_nb.features import FeatureColumns, extract_features
from satdino_nb.vit import load_satdino
from satdino_nb.data import samples_dir
add = FeatureColumns.add
def slow(self, rows): add(self, rows); self.note(); print(self.done, flush=True); time.sleep(0.2)
FeatureColumns.add = slow
model = load_satdino('satdino-nano')
extract_features(model, sample_tiles('train'), batch_size=16, cache=sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == 'win32', reason='sends SIGKILL')
def test_features_survive_a_kill(tmp_path, monkeypatch):
    process = subprocess.Popen(
        [sys.executable, '-c', KILLED, tmp_path], stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if int(line) >= 96:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    note = json.loads(next(tmp_path.rglob('done.json')).read_text())
    assert 96 <= note['rows'] < 270
    model, read, tiles = load_satdino(WEIGHTS), [], sample_tiles('train')
    plain, tile = extract_features(model, tiles, batch_size=16), Tiles.__getitem__
    monkeypatch.setattr(Tiles, '__getitem__', lambda self, i: read.append(i) or tile(self, i))
    kept = extract_features(model, tiles, batch_size=16, cache=tmp_path)
    assert (
        torch.equal(kept.cls, plain.cls)
        and torch.equal(kept.gsd, plain.gsd)
        and len(read) == 270 - note['rows']
    )


@pytest.mark.slow
def test_intervals_and_pairs_in_a_report():
    train, test = sample_tiles('train'), sample_tiles('test')
    report = evaluate(
        {'a': WEIGHTS, 'b': WEIGHTS},
        train,
        test,
        protocols=('knn', 'logistic', 'retrieval'),
        baselines=False,
        progress=False,
    )
    pairs = report.differences()
    assert {(r.protocol, r.metric) for r, _ in pairs} == {
        ('knn', 'accuracy'),
        ('logistic', 'accuracy'),
        ('retrieval', 'precision'),
    }
    assert all(r.model == 'b' and e.value == e.low == e.high == 0 for r, e in pairs), (
        'a model does not differ from itself'
    )
    assert set(PROTOCOLS) >= {
        'knn',
        'scales',
        'linear',
        'logistic',
        'few',
        'retrieval',
        'finetune',
        'gsd',
    }


@pytest.mark.slow
def test_seeds_of_what_is_trained_on_labels():
    from satdino_nb.finetune import FineTuneConfig
    from satdino_nb.intervals import Spread

    some = [sample_tiles(s).subset(range(0, n, 6)) for s, n in (('train', 270), ('test', 90))]
    report = evaluate(
        {'a': WEIGHTS, 'b': WEIGHTS},
        *some,
        protocols=('linear', 'finetune'),
        baselines=False,
        progress=False,
        seeds=2,
        tuning=FineTuneConfig(epochs=1, batch_size=15),
    )
    for protocol, setting in (('linear', 'all labels'), ('finetune', '1 epochs')):
        e = report.value('a', protocol, setting)
        assert isinstance(e, Spread) and e.seeds == 2 and e.low <= e.value <= e.high
    assert not report.problems and all(e.value == 0 for _, e in report.differences())


def test_a_run_that_noted_no_content_warns_where_its_tiles_have_other_names(tmp_path, monkeypatch):
    tiles = sample_tiles('test').subset(range(4))
    said = {'data': fingerprint(tiles)}
    asked = []

    def newest(folder):
        asked.append(folder)
        return folder / 'step-00000001', said

    monkeypatch.setattr(evaluation, 'newest_checkpoint', newest)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        evaluation.note_unknown(tmp_path, tiles)
    said['data'] = '9 images, 0badcafe'
    with pytest.warns(UserWarning, match='9 images, 0badcafe -> 4 images.*not noted'):
        evaluation.note_unknown(tmp_path, tiles)
    assert asked == [tmp_path / 'checkpoints'] * 2
