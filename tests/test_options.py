"No option of a command and no setting of a recipe is ignored without a word."

import csv
import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest

from satdino_nb.data import sample_tiles
from satdino_nb.engine.evaluation import refuse_draw, sides
from satdino_nb.engine.finetuning import FineTuneConfig
from satdino_nb.engine.markup import write_csv
from satdino_nb.engine.protocols import PROTOCOLS, READ_BY, Setup, check_counts, check_unread
from satdino_nb.engine.recipe import PretrainConfig, command_line, read_config, unread
from satdino_nb.engine.report import read_results
from satdino_nb.evaluate import main

UNREAD = [
    (['--epochs', '2', '--steps', '5'], '--steps .* epochs'),
    (['--coarse-sizes', '32', '16'], '--coarse-sizes'),
    (['--gamma', '0', '--unknown-gsd', 'skip'], '--unknown-gsd .*gamma 0'),
    (['--gamma=0', '--gamma-schedule=cosine'], '--gamma-schedule .*gamma 0'),
    (['--gamma', '0', '--no-train-gsd-head'], '--train-gsd-head'),
    (['--gamma-end', '0.5'], '--gamma-end .* constant'),
    (['--gamma-schedule', 'cosine', '--gamma-warmup', '0.2'], '--gamma-warmup .* cosine'),
    (['--teacher-temp-warmup', '0.1'], '--teacher-temp-warmup'),
    (['--centring', 'sinkhorn', '--centre-momentum', '0.5'], '--centre-momentum'),
    (['--clip-grad', '0', '--clip-mode', 'per_tensor'], '--clip-mode'),
    (['--knn_images', '50'], '--knn-images .* knn_every'),
    (['--init-parts', 'all'], '--init-parts'),
    (['--allow-changes'], '--allow-changes'),
    (['--temporal', '--cut-views', 'host'], '--cut-views'),
    (['--vit.no-gsd-token', '--gamma', '0', '--vit.gsd-log'], '--vit.gsd-log'),
    (['--preset', 'laptop', '--settings', 'config.json'], '--preset and --settings'),
    (['--dry-run', '-3'], '--dry-run'),
]


@pytest.mark.parametrize('args,words', UNREAD, ids=lambda v: ' '.join(v)[:30])
def test_an_option_that_a_run_would_not_read_is_an_error(args, words):
    with pytest.raises(SystemExit, match=words):
        command_line(args)


@pytest.mark.parametrize(
    'args',
    [
        ['--preset', 'small-images', '--steps', '7', '--knn-images', '9'],
        ['--preset', 'paper-s16', '--teacher-temp-warmup', '0.1'],
        ['--coarse', '0.5', '--coarse-sizes', '32', '16'],
        ['--gamma-schedule', 'warmup', '--gamma-warmup', '0.2', '--shuffle-gsd'],
        ['--resume', '--allow-changes', '--init', 'a.pth', '--init-parts', 'all'],
    ],
    ids=lambda v: ' '.join(v)[:30],
)
def test_an_option_that_is_read_is_none(args):
    assert isinstance(command_line(args)[0], PretrainConfig)


def test_names_of_settings_that_are_not_read_exist():
    c = replace(PretrainConfig(), epochs=1.0, temporal=True, gamma=0.0, clip_grad=0.0)
    for name in unread(c):
        at = c
        for part in name.split('.'):
            at = getattr(at, part)
    assert {'steps', 'cut_views', 'unknown_gsd', 'clip_mode'} <= set(unread(c))


@pytest.mark.parametrize(
    'args,words',
    [
        (['--run', 'RUN', '--split', 'place'], '--split.*run'),
        (['--run', 'RUN', '--held-out', '0.5'], '--held-out.*run'),
        (['--run', 'RUN', '--models', 'a'], '--models'),
        (['--models', 'satdino-nano', '--data', 'INDEX', '--held-out', '0.3'], '--held-out.*train'),
        (['--models', 'm', '--train', 'INDEX', '--test', 'INDEX', '--split', 'image'], '--split'),
        (['--models', 'm', '--data', 'PLAIN', '--held-out', '0'], 'held_out'),
        (['--models', 'm', '--data', 'PLAIN', '--counts', '3'], '--counts.*few'),
        (['--models', 'm', '--data', 'PLAIN', '--seeds', '3'], '--seeds.*linear'),
        (['--models', 'm', '--data', 'PLAIN', '--mask-classes', 'a'], '--mask-classes.*segment'),
        (['--models', 'm', '--data', 'PLAIN', '--tuning.epochs', '3'], 'tuning.*finetune'),
        (['--models', 'm', '--data', 'PLAIN', '--segmenting.steps', '3'], 'segmenting.*segment'),
        (['--models', 'm', '--data', 'PLAIN', '--protocols', 'linear', '--k', '5'], '--k. .*knn'),
        (['--models', 'm', '--data', 'PLAIN', '--k', '0'], 'k .--k. must be 1'),
        (['--models', 'm', '--data', 'PLAIN', '--no-baselines', '--untrained-seeds', '1'], 'unt'),
        (['--models', 'm', '--data', 'PLAIN', '--untrained-seeds', '0'], 'untrained_seeds'),
        (['--models', 'm', '--data', 'PLAIN', '--temperature', '0'], 'temperature'),
        (['--models', 'm', '--data', 'PLAIN', '--temperature', 'nan'], 'temperature'),
    ],
    ids=lambda v: ' '.join(v)[-40:],
)
def test_evaluate_names_what_it_would_not_read(args, words, tmp_path):
    both = [sample_tiles('train').subset(range(0, 270, 6)), sample_tiles('test')]
    for name, more in (('INDEX', True), ('PLAIN', False)):
        with (tmp_path / f'{name}.csv').open('w', newline='') as f:
            rows = csv.writer(f)
            rows.writerow(['file', 'class', 'gsd', *(['split'] * more)])
            for t, part in zip(both, ('train', 'test')):
                for p, y, g in zip(t.paths, t.labels, t.gsds):
                    rows.writerow([p, t.classes[y], g, *([part] * more)])
    files = {n: str(tmp_path / f'{n}.csv') for n in ('INDEX', 'PLAIN')} | {'RUN': str(tmp_path)}
    with pytest.raises(SystemExit) as stopped:
        main([files.get(a, a) for a in args])
    assert re.search(words, str(stopped.value)), stopped.value


def test_settings_of_a_report_are_read_by_someone():
    tiles = sample_tiles('test')
    s = Setup(tiles, tiles)
    for readers in READ_BY.values():
        assert readers and readers <= set(PROTOCOLS)
    check_unread(s, ['knn'])
    check_unread(Setup(tiles, tiles, ks=(1, 5), k=3), ['knn', 'scales'])
    for bad in (dict(ks=(0,)), dict(seeds=0), dict(counts=()), dict(draws=0), dict(size=0)):
        with pytest.raises(ValueError, match='must be 1 or more'):
            check_counts(Setup(tiles, tiles, **bad))


def test_a_draw_is_made_as_asked_although_the_source_has_its_own():
    tiles = sample_tiles('test')
    tiles.splits = ['test' if i % 3 else 'train' for i in range(len(tiles))]
    train, test = sides(tiles, None, None, 'auto', 0)
    assert len(test) == 60 and set(test.splits) == {'test'}
    train, test = sides(tiles, None, 0.5, 'image', 0)
    assert set(test.splits) == {'train', 'test'}
    refuse_draw('nothing is asked')


@pytest.mark.parametrize(
    'change',
    [
        dict(lr=-1.0),
        dict(lr=float('nan')),
        dict(clip_grad=0.0),
        dict(weight_decay=-0.1),
        dict(drop_path=2.0),
        dict(label_smoothing=-0.1),
        dict(flip=1.5),
        dict(scale=(0.0, 1.0)),
        dict(scale=(0.8, 0.2)),
        dict(mixup=float('inf')),
        dict(warmup_epochs=-1.0),
    ],
    ids=str,
)
def test_a_recipe_that_cannot_work_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        FineTuneConfig(**change)


def test_what_was_saved_before_reads_as_today(tmp_path, repo):
    today = (repo / 'bench/results/satdino-nano/eurosat/results.json').read_text()
    before = today.replace('difference to satdino-nano', 'less first')
    assert before.count('less first') > 30
    (tmp_path / 'old.json').write_text(before)
    head = 'model,protocol,setting,metric,kind,value,low,high,unit,interval,n\n'
    row = 'a,knn,k 20,accuracy,less first,-0.1,,0.2,%,95 %,90\n'
    (tmp_path / 'old.csv').write_text(head + row)
    for path in (tmp_path / 'old.json', tmp_path / 'old.csv'):
        kinds = {r['kind'] for r in read_results(path)['results']} - {'value'}
        assert kinds == {'difference to first'}, path
    (row,) = read_results(tmp_path / 'old.csv')['results']
    assert row['value'] == -0.1 and np.isnan(row['low']) and row['note'] == ''
    sys.path.insert(0, str(repo / 'bench'))
    try:
        ship = __import__('ship')
    finally:
        sys.path.pop(0)
    for file in ('gsd_readout.json', 'satdino-nano/gsd_scenes.json'):
        assert ' less ' not in (repo / 'bench/results' / file).read_text()
    rows = read_results(tmp_path / 'old.json')['results']
    table = ship.accuracy_table(rows, 'first')
    assert '20 neighbours, difference to first' in table
    assert not re.search(r'\bnan\b', table)


def test_a_file_that_is_no_configuration_is_said(tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps([1, 2]))
    with pytest.raises(ValueError, match='config.json: not the settings of a run'):
        read_config(tmp_path / 'config.json')


def test_cells_of_a_report_are_read_back_as_they_were(tmp_path):
    "A quote that keeps spreadsheets from computing, and lines within a cell."
    columns = ['model', 'kind', 'value', 'low', 'high', 'note']
    row = dict(model='-x', kind='value', value=0.5, low=0.4, high=0.6, note='one\ntwo\u2028three')
    write_csv(tmp_path / 'results.csv', columns, [row])
    assert read_results(tmp_path / 'results.csv') == dict(results=[row])
