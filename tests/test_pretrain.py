"""Every setting of a run does what it says; what cannot work is said before it costs anything."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from satdino_nb.data import cache_tiles, channel_stats, open_tiles, sample_tiles, samples_dir
from satdino_nb.dino import DINOLoss
from satdino_nb.pretrain import (
    PretrainConfig,
    build,
    check_config,
    differences,
    dry_run,
    load_run,
    newest_checkpoint,
    plot_run,
    pretrain,
    pretrain_preset,
    read_config,
    save_config,
)
from satdino_nb.views import view_preset
from satdino_nb.vit import ViTConfig, load_satdino, predict_gsd

VIT = ViTConfig(32, 8, 48, 2, 3)
TRAIN = sample_tiles('train')
BASE = PretrainConfig(
    steps=4,
    batch_size=16,
    workers=0,
    views=view_preset('tiny'),
    vit=VIT,
    out_dim=64,
    hidden_dim=48,
    bottleneck_dim=16,
    log_every=1,
    check=False,
    device='cpu',
)
TRAIN_STATS = channel_stats(TRAIN)
X = torch.rand(2, 3, 32, 32)


def trained(tmp_path, tiles=TRAIN, **changes):
    return pretrain(replace(BASE, out=tmp_path / 'run', **changes), tiles)


def first(tmp_path):
    return load_file(newest_checkpoint(tmp_path / 'run' / 'checkpoints')[0] / 'model.safetensors')


@pytest.mark.parametrize(
    'changes',
    [
        dict(gamma=0.0),
        dict(gamma=0.0, vit=replace(VIT, gsd_token=False)),
        dict(vit=replace(VIT, gsd_log=True)),
        dict(train_gsd_head=False),
        dict(shuffle_gsd=True),
        dict(centring='sinkhorn'),
        dict(objective='coding-rate'),
        dict(precision='bf16'),
        dict(checkpoint_gradients=True),
        dict(clip_grad=0.0),
        dict(clip_mode='per_tensor', clip_grad=1.0),
        dict(accumulate=2, batch_size=12),
        dict(freeze_last_layer=1.0),
        dict(epochs=0.5),
        dict(views=view_preset('tiny', n_local=0)),
        dict(lr=None, momentum=None, out_dim=None),
        *(dict(gamma_schedule=kind) for kind in ('linear', 'cosine', 'warmup')),
        dict(coarse=0.5, coarse_sizes=(16, 8)),
        dict(views=view_preset('tiny', vertical_flip=0.5, quarter_turn=0.5)),
    ],
    ids=lambda c: (
        ' '.join(f'{k}={v}' for k, v in c.items() if k not in ('vit', 'views'))
        + (' log' if 'vit' in c and c['vit'].gsd_log else '')
    ),
)
def test_every_setting_trains_and_is_read_back(tmp_path, changes):
    some = TRAIN.subset(range(0, len(TRAIN), 5))
    run = trained(tmp_path, some, **(dict(steps=2) | changes))
    again = load_run(run.out)
    assert (
        again.config == run.config
        and again.metrics == run.metrics
        and len(run.metrics) == run.config.steps
    )
    assert all(math.isfinite(r['loss']) for r in run.metrics)
    x = again.model.normalisation(X)
    with torch.no_grad():
        assert torch.equal(again.model(x), run.model(x))
    if run.config.gamma:
        with torch.no_grad():
            assert torch.allclose(predict_gsd(again.model, x), predict_gsd(run.model, x))
        assert all(r['gsd_mae'] > 0 and r['mean_mae'] > 0 for r in run.metrics)
    else:
        assert all(r['gsd_mae'] is None for r in run.metrics)
        with pytest.raises(ValueError, match='no GSD token|no read-out'):
            predict_gsd(again.model, x)


def test_a_batch_worked_in_parts_is_the_same_batch(tmp_path):
    "Losses of three steps agree to rounding, in one part and in four."
    whole, parts = (
        trained(tmp_path / str(n), steps=3, accumulate=n, drop_path=0.0).metrics for n in (1, 4)
    )
    assert len(whole) == len(parts) == 3
    for a, b in zip(whole, parts):
        assert b['loss'] == pytest.approx(a['loss'], rel=1e-4)


def test_the_gsd_head_is_trained_unless_told(tmp_path):
    key = 'student.backbone.gsd_head.weight'
    start = build(BASE, TRAIN_STATS).state_dict()[key]
    trained(tmp_path / 'a')
    trained(tmp_path / 'b', train_gsd_head=False)
    assert not torch.equal(first(tmp_path / 'a')[key], start) and torch.equal(
        first(tmp_path / 'b')[key], start
    )


@pytest.mark.slow
def test_log_metres_are_read_as_metres(tmp_path):
    run = trained(tmp_path, vit=replace(VIT, gsd_log=True), steps=30, lr=3e-3)
    with torch.no_grad():
        estimate = predict_gsd(load_run(run.out).model, run.model.normalisation(X))
    assert (estimate > 0).all() and estimate.max() < 100
    assert run.metrics[-1]['gsd'] < 10 and run.metrics[-1]['gsd_mae'] < run.metrics[0]['gsd_mae']


def test_gamma_follows_its_schedule(tmp_path):
    run = trained(tmp_path, gamma=0.4, gamma_schedule='linear', gamma_end=0.1)
    assert [r['gamma'] for r in run.metrics] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    for r in run.metrics:
        assert r['loss'] == pytest.approx(r['dino'] + r['gamma'] * r['gsd'], rel=1e-5)


def test_the_prototypes_are_frozen_at_first(tmp_path):
    key = 'student.head.last_layer.parametrizations.weight.original1'
    trained(tmp_path, freeze_last_layer=1.0)
    assert torch.equal(first(tmp_path)[key], build(BASE, TRAIN_STATS).state_dict()[key])


def test_checkpointed_gradients_change_nothing(tmp_path):
    a, b = trained(tmp_path / 'a'), trained(tmp_path / 'b', checkpoint_gradients=True)
    assert [r['loss'] for r in a.metrics] == pytest.approx([r['loss'] for r in b.metrics], rel=1e-5)


def test_scores_exist_in_fp32_one_view_at_a_time():
    """65,536 prototypes: the loss allocates at once a few views' worth, not all twelve.

    Measured by torch's own profiler.
    """
    K, V, B = 65536, 12, 2
    student, q = (
        torch.randn(V, B, K, dtype=torch.bfloat16, requires_grad=True),
        torch.randn(2, B, K).softmax(-1),
    )
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as seen:
        DINOLoss(K)(student, q).backward()
    now = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == '[memory]':
            now += event.nbytes()
            most = max(most, now)
    view = B * K * 4
    assert (
        V * view / 2 < most < V * view
    )  # the 16-bit gradient is half of it; twelve fp32 copies would be V views and more


def test_presets_and_settings(tmp_path):
    for name in ('laptop', 'small-images', 'paper-s16'):
        check_config(pretrain_preset(name))
        save_config(pretrain_preset(name), tmp_path / 'c.json')
        assert read_config(tmp_path / 'c.json') == pretrain_preset(name)
    paper = pretrain_preset('paper-s16')
    assert (
        paper.vit,
        paper.views.local_size,
        paper.views.n_local,
        paper.out_dim,
        paper.epochs,
    ) == (ViTConfig(), 96, 10, 65536, 200)
    assert differences(BASE, replace(BASE, vit=replace(VIT, depth=3), seed=1)) == {
        'vit.depth': '2 -> 3',
        'seed': '0 -> 1',
    }


def test_start_from_published_form(tmp_path, shared):
    "A released checkpoint: its backbone, its statistics, its rule for positions; new heads."
    released = shared('golden/released_p16.pth')
    config = replace(
        BASE,
        vit=ViTConfig(224, 16, 128, 3, 2),
        views=view_preset('tiny'),
        init=str(released),
        out=tmp_path / 'run',
        steps=1,
        lr=0.0,
        final_lr=0.0,
    )
    run, source = pretrain(config, TRAIN), load_satdino(released, verbose=False)
    assert (
        run.model.normalisation == source.normalisation
        and run.model.config.pos_interp == 'released'
        and run.model.gsd_head is not None
    )
    assert all(
        torch.equal(v, run.model.state_dict()[k])
        for k, v in source.state_dict().items()
        if not k.startswith('linear_head')
    )


def test_go_on_from_everything(tmp_path):
    trained(tmp_path / 'a')
    state = first(tmp_path / 'a')
    trained(
        tmp_path / 'b',
        init=str(tmp_path / 'a' / 'run'),
        init_parts='all',
        steps=1,
        lr=0.0,
        final_lr=0.0,
        momentum=(1.0, 1.0),
    )
    after = first(tmp_path / 'b')
    assert all(
        torch.equal(state[k], after[k]) for k in state if 'centre' not in k
    ) and not torch.equal(state['loss.centre'], after['loss.centre'])


def mixture(folder):
    "A mixture of the samples with parts of other sizes, without classes, without GSD."
    rng = np.random.default_rng(0)
    for name, size in (('streets', 40), ('fields', 96)):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            picture = Image.fromarray(rng.integers(0, 256, (size, size + i, 3), dtype=np.uint8))
            picture.save(folder / name / f'{i}.png')
    parts = [
        dict(data=str(samples_dir() / 'manifest.csv'), weight=2),
        dict(data='streets', gsd=0.5, weight=1),
        dict(data='fields', weight=1),
    ]
    (folder / 'mixture.json').write_text(json.dumps(parts))
    return folder / 'mixture.json'


@pytest.mark.parametrize('cut', ['device', 'host'])
@pytest.mark.slow
def test_a_mixture_trains_and_goes_on(tmp_path, cut):
    changes = dict(
        data=mixture(tmp_path),
        unknown_gsd='skip',
        steps=6,
        save_every=3,
        cut_views=cut,
        knn_every=3,
        held_out=0.2,
    )
    run = trained(tmp_path / 'whole', None, **changes)
    assert all(math.isfinite(r['gsd']) and r['gsd_mae'] > 0 for r in run.metrics)
    assert 0 <= run.metrics[-1]['knn'] <= 1  # asked of the part that has classes
    shutil.copytree(tmp_path / 'whole', tmp_path / 'part')
    for folder in (tmp_path / 'part' / 'run' / 'checkpoints').glob('step-*6'):
        shutil.rmtree(folder)
    trained(tmp_path / 'part', None, **changes, resume=True)
    a, b = first(tmp_path / 'whole'), first(tmp_path / 'part')
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_knn_accuracy_is_left_out_where_no_image_has_a_class_and_that_is_said(tmp_path, caplog):
    words = 'no image has a class'
    with caplog.at_level('INFO'):
        run = trained(tmp_path / 'with', knn_every=2, held_out=0.2)
    assert [0 <= r['knn'] <= 1 for r in run.metrics if 'knn' in r] == [True, True]
    assert words not in caplog.text
    unlabelled = TRAIN.subset(range(len(TRAIN)))
    unlabelled.labels = [None] * len(TRAIN)
    with caplog.at_level('INFO'):
        run = trained(tmp_path / 'without', unlabelled, knn_every=2, held_out=0.2)
    assert words in caplog.text and not any(r.get('knn') for r in run.metrics)


def test_a_mixture_without_gsd_is_refused_unless_told(tmp_path):
    with pytest.raises(ValueError, match='no GSD.*unknown-gsd skip'):
        trained(tmp_path, None, data=mixture(tmp_path))


def test_a_cached_mixture_is_the_mixture(tmp_path):
    tiles = open_tiles(mixture(tmp_path))
    cached = cache_tiles(tiles, tmp_path / 'cache')
    for i in (0, len(tiles) // 2, len(tiles) - 1):
        assert torch.equal(tiles[i].image, cached[i].image)
    assert cached.weights == tiles.weights and cached.labels == tiles.labels


@pytest.mark.slow
def test_tensorboard_gets_every_number(tmp_path):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    run = trained(tmp_path, track='tensorboard')
    (events,) = run.out.rglob('events.out.tfevents.*')
    log = accumulator.EventAccumulator(str(events)).Reload()
    for name in (
        'loss',
        'gsd_mae',
        'teacher_entropy',
        'effective_rank',
        'data_wait',
        'images_per_second',
    ):
        assert [e.value for e in log.Scalars(name)] == pytest.approx(
            [r[name] for r in run.metrics], rel=1e-5
        ), name


def test_watchers_see_every_row(tmp_path):
    seen = []
    run = pretrain(
        replace(BASE, out=tmp_path / 'run'),
        TRAIN,
        watch=lambda rows, c: seen.append(rows[-1]['step']),
    )
    assert seen == [0, 1, 2, 3] == [r['step'] for r in run.metrics]
    assert len(plot_run(run).axes) == 8  # the panel that watchers draw


def test_bf16_after_fp32_in_one_process(tmp_path):
    assert trained(tmp_path / 'a').config.precision == 'fp32'
    run = trained(tmp_path / 'b', precision='bf16')
    assert (
        run.config.precision == 'bf16'
        and run.metrics[0]['loss'] != load_run(tmp_path / 'a' / 'run').metrics[0]['loss']
    )


def test_a_poisoned_batch_is_named(tmp_path):
    """A GSD so large that its squared error is infinite stops the run.

    At the step of its image, which is named; the checkpoint before is kept.
    """
    tiles = TRAIN.subset(range(48))
    tiles.gsds = list(tiles.gsds)
    tiles.gsds[7] = 1e30
    with pytest.raises(FloatingPointError) as error:
        trained(tmp_path, tiles, steps=6, held_out=0.0, save_every=1, log_every=100)
    step = int(str(error.value).split('at step ')[1].split(';')[0])
    listed = (tmp_path / 'run' / 'bad_batch_0.txt').read_text().splitlines()
    assert (
        tiles.paths[7] in listed
        and len(listed) == 16
        and listed[0] in str(error.value)
        and 'bad_batch_0.txt' in str(error.value)
    )
    assert (
        newest_checkpoint(tmp_path / 'run' / 'checkpoints')[1]['done'] == step
        if step
        else 'none yet' in str(error.value)
    )


def cli(*args):
    return subprocess.run(
        [sys.executable, '-m', 'satdino_nb.pretrain', *map(str, args)],
        text=True,
        capture_output=True,
        timeout=300,
    )


OPTIONS = [
    '--data',
    samples_dir() / 'scenes',
    '--gsd',
    2,
    '--no-check',
    '--workers',
    0,
    '--batch-size',
    16,
    '--views.global-size',
    32,
    '--views.local-size',
    16,
    '--vit.img-size',
    32,
    '--vit.depth',
    1,
]


@pytest.mark.slow
def test_dry_run_says_what_a_run_costs(tmp_path):
    done = cli(*OPTIONS, '--out', tmp_path / 'run', '--dry-run', 2, '--steps', 1000)
    assert done.returncode == 0, done.stderr
    for word in (
        '1,000 steps of 16 images',
        'ms a step',
        'an epoch',
        'peak memory',
        'M parameters',
    ):
        assert word in done.stdout, done.stdout
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    'args,words',
    [
        (['--preset', 'papers16'], ["no preset 'papers16'", 'paper-s16']),
        (['--settings', 'nowhere.json'], ['nowhere.json']),
        (['--knn-evry', 3], ['--knn-every']),
        (['--out-dim', 10**11], ['out of memory', '--accumulate', '--out-dim', '--precision bf16']),
        (
            ['--init', 'nowhere/at/all.safetensors'],
            ['nowhere/at/all.safetensors', 'no such model file'],
        ),
        (['--gamma', 0.1, '--vit.no-gsd-token'], ['--gamma 0']),
        (['--batch-size', 15, '--accumulate', 2], ['15', '1 processes x 2 parts']),
    ],
    ids=lambda v: str(v[0]),
)
@pytest.mark.slow
def test_what_cannot_work_is_said(tmp_path, args, words):
    done = cli(*OPTIONS, '--out', tmp_path / 'run', *args)
    said = done.stdout + done.stderr
    assert done.returncode != 0 and all(w in said for w in words) and 'Traceback' not in said, said


@pytest.mark.slow
def test_unknown_settings_in_a_file(tmp_path):
    save_config(BASE, tmp_path / 'c.json')
    values = json.loads((tmp_path / 'c.json').read_text())
    (tmp_path / 'c.json').write_text(json.dumps({**values, 'batchsize': 3}))
    done = cli('--settings', tmp_path / 'c.json')
    assert (
        done.returncode != 0
        and 'c.json' in done.stderr
        and "'batchsize'" in done.stderr
        and 'batch_size' in done.stderr
    )


def test_a_collapse_is_said_while_it_happens(tmp_path, capsys):
    trained(tmp_path, steps=12, teacher_temp=(1.0, 1.0))
    said = [line for line in capsys.readouterr().out.splitlines() if 'Collapsed to uniform' in line]
    assert len(said) == 1 and said[0].startswith('step 2: ') and 'teacher_temp' in said[0]


@pytest.mark.slow
def test_the_number_of_loading_processes_changes_nothing(tmp_path):
    one, two = (trained(tmp_path / f'workers{n}', workers=n, steps=2) for n in (0, 1))
    assert [r['loss'] for r in one.metrics] == [r['loss'] for r in two.metrics]
    weights, others = one.model.state_dict(), two.model.state_dict()
    assert all(torch.equal(weights[k], others[k]) for k in weights)


def test_a_run_that_is_there_is_set_aside(tmp_path):
    old = trained(tmp_path, steps=1)
    new = trained(tmp_path, steps=2)
    assert load_run(tmp_path / 'run-1').metrics == old.metrics
    assert load_run(tmp_path / 'run').metrics == new.metrics
    with pytest.raises(ValueError, match='is not a run folder'):
        pretrain(replace(BASE, out=tmp_path), TRAIN)  # a folder with other things in it


@pytest.mark.parametrize(
    'change, error',
    [
        (dict(vit=ViTConfig(32, 4, 48, 2, 3)), ValueError),
        (dict(init='nowhere'), (ValueError, FileNotFoundError)),
        (dict(init='run/model.safetensors', init_parts='all'), FileNotFoundError),
        (dict(init_parts='all', out_dim=32), ValueError),
    ],
    ids=['another ViT', 'nowhere', 'no checkpoint', 'another head'],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, error):
    trained(tmp_path, steps=1)
    change = dict(init='run', out=tmp_path / 'bad') | change
    change['init'] = str(tmp_path / change['init'])
    with pytest.raises(error):
        pretrain(replace(BASE, **change), TRAIN)
    assert not (tmp_path / 'bad').exists()


@pytest.mark.parametrize(
    'change, words',
    [(dict(gsd=10.0), 'a.jpg'), (dict(gsd=0.0), 'gsd'), (dict(gsd=float('nan')), 'nan')],
    ids=['no pictures', 'GSD of 0', 'NaN'],
)
def test_tiles_that_cannot_be_used_are_refused(tmp_path, change, words):
    spoilt = tmp_path / 'tiles'
    spoilt.mkdir()
    (spoilt / 'a.jpg').write_bytes(b'not a picture')
    (spoilt / 'b.jpg').write_bytes(b'')
    few = replace(BASE, data=spoilt, batch_size=1, held_out=0.0, check=True, out=tmp_path / 'bad')
    with pytest.raises(ValueError, match='(?i)' + words):
        pretrain(replace(few, **change))
    assert not (tmp_path / 'bad').exists()


@pytest.mark.slow
def test_some_settings_may_change_on_the_way(tmp_path):
    trained(tmp_path, steps=2, save_every=1)
    again = dict(steps=2, save_every=1, resume=True)
    for free in (dict(log_every=5), dict(workers=1), dict(lr=1e-3, allow_changes=True)):
        trained(tmp_path, **again, **free)
    with pytest.raises(ValueError, match='n_local') as refused:
        trained(tmp_path, **again, lr=2e-3, views=view_preset('tiny', n_local=3))
    assert 'lr: 0.001 -> 0.002' in str(refused.value)


def test_dry_run_of_a_run_that_begins_coarse(tmp_path):
    staged = replace(BASE, out=tmp_path / 'dry', coarse=0.5, coarse_sizes=(16, 8))
    cost = dry_run(staged, TRAIN, steps=1)
    assert cost.step_time > 0 and 0 <= cost.wait <= 1 and not (tmp_path / 'dry').exists()
