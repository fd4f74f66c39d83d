"""The command lines, as a user runs them.

What they leave, and what they say when the input is wrong.
"""

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from dataclasses import asdict
from importlib.util import find_spec

import pytest
from browsing import explore_command
from PIL import Image

from satdino_nb.data import channel_stats, folder_tiles, samples_dir
from satdino_nb.engine.commands import COMMANDS
from satdino_nb.vit import load_satdino

pytestmark = pytest.mark.slow  # processes of their own, each of which imports torch
SMALL = (
    '--steps 3 --batch-size 16 --workers 0 --views.global-size 32 --views.local-size 16 '
    '--vit.img-size 32 --vit.depth 2 --out-dim 128 --log-every 1'
).split()


def command(module, *args):
    return subprocess.run(
        [sys.executable, '-m', f'satdino_nb.{module}', *map(str, args)],
        text=True,
        capture_output=True,
        timeout=300,
    )


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp('runs') / 'first'
    data = samples_dir() / 'scenes'
    done = command('pretrain', '--data', data, '--gsd', 2, '--out', out, *SMALL)
    assert done.returncode == 0, done.stderr
    return out, done


def test_pretrain_leaves_weights_configuration_and_numbers(run):
    out, done = run
    assert '3/3' in done.stderr, 'a progress bar'
    assert {'model.safetensors', 'config.json', 'metrics.jsonl'} <= {p.name for p in out.iterdir()}
    rows = [json.loads(line) for line in (out / 'metrics.jsonl').read_text().splitlines()]
    assert [r['step'] for r in rows] == [0, 1, 2] and all(math.isfinite(r['loss']) for r in rows)
    config = json.loads((out / 'config.json').read_text())
    assert config['steps'] == 3 and config['gsd'] == 2 and config['vit']['depth'] == 2
    assert load_satdino(out / 'model.safetensors').config.depth == 2


def results(out):
    return json.loads((out / 'evaluation' / 'results.json').read_text())


def test_evaluate_compares_with_the_baselines(run):
    out, _ = run
    done = command('evaluate', '--run', out, '--workers', 0)
    assert done.returncode == 0, done.stderr
    report = results(out)
    names = ['first', 'untrained', 'pixels', 'colour histogram', 'hand-made features']
    assert report['settings']['models'] == names and report['settings']['steps'] == 3
    n = report['settings']['test']
    for r in report['results']:
        assert r['low'] <= r['value'] <= r['high'] and (r['n'] in (n, 3))
    assert {r['protocol'] for r in report['results']} == {'knn', 'gsd of views'}
    assert all(name in done.stdout for name in report['settings']['models'])


def test_help_lists_every_setting():
    done = command('pretrain', '--help')
    assert done.returncode == 0
    for option in (
        '--data',
        '--gsd',
        '--steps',
        '--out',
        '--views.sampling',
        '--vit.patch-size',
        '--gamma',
    ):
        assert option in done.stdout, option


@pytest.fixture
def tiles(tmp_path):
    folder = tmp_path / 'tiles'
    shutil.copytree(samples_dir() / 'scenes' / 'forest', folder)
    return folder


def broken(folder):
    (folder / 'broken.jpg').write_bytes(b'\xff\xd8\xff\xe0 not much of a picture')


def cut(folder):
    first = sorted(folder.iterdir())[0]
    first.write_bytes(first.read_bytes()[:700])


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def missing(folder):
    shutil.rmtree(folder)


def deep(folder):
    Image.new('I;16', (64, 64)).save(folder / 'deep.png')


def one_pixel(folder):
    Image.new('RGB', (1, 1)).save(folder / 'one.png')


def nothing(folder):
    pass


@pytest.mark.parametrize(
    'spoil,args,words',
    [
        (missing, ['--gsd', 10], ['tiles', 'no such folder']),
        (empty, ['--gsd', 10], ['tiles', 'no images']),
        (broken, ['--gsd', 10], ['broken.jpg', '1 of']),
        (cut, ['--gsd', 10], ['forest_00.jpg', '1 of']),
        (one_pixel, ['--gsd', 10], ['one.png', '1 x 1 pixels', '1 of 25']),
        (nothing, ['--gsd', 0], ['positive', '0.0']),
        (nothing, ['--gsd', 'nan'], ['positive', 'nan']),
        (nothing, ['--gsd', -1], ['positive', '-1']),
        (nothing, [], ['--gsd', '--gamma 0']),
        (nothing, ['--gsd', 10, '--batch-size', 500], ['--batch-size', '500']),
        (nothing, ['--gsd', 10, '--views.local-scale', 0.25, 0.05], ['low <= high']),
        (nothing, ['--gsd', 10, '--views.global-scale', 0.25, 1.5], ['<= 1', '1.5']),
        (
            nothing,
            ['--gsd', 10, '--views.n-global', 1, '--views.n-local', 0],
            ['at least one', 'got 1 + 0'],
        ),
        (nothing, ['--gsd', 10, '--views.local-size', 12], ['12', 'patch_size']),
        (nothing, ['--gsd', 10, '--temporal'], ['same place', 'place']),
        (nothing, ['--gsd', 10, '--cache', '/dev/null/cache'], ['/dev/null/cache']),
    ],
    ids=lambda v: getattr(v, '__name__', None) or ' '.join(map(str, v))[:30],
)
def test_bad_input_is_named_before_training_starts(tiles, tmp_path, spoil, args, words):
    spoil(tiles)
    out = tmp_path / 'run'
    done = command('pretrain', '--data', tiles, '--out', out, *SMALL, '--held-out', 0, *args)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert all(w in said for w in words), said
    assert 'Traceback' not in said, said
    assert not out.exists(), 'nothing is written for a run that never began'


def test_bad_images_can_be_skipped(tiles, tmp_path):
    broken(tiles)
    deep(tiles)
    shutil.copytree(samples_dir() / 'scenes' / 'sea', tmp_path / 'set' / 'sea')
    shutil.move(tiles, tmp_path / 'set' / 'forest')
    out = tmp_path / 'run'
    done = command(
        'pretrain',
        '--data',
        tmp_path / 'set',
        '--gsd',
        2,
        '--out',
        out,
        *SMALL,
        '--on-error',
        'skip',
    )
    assert (
        done.returncode == 0 and 'left out 1 of 50' in done.stderr and 'broken.jpg' in done.stderr
    ), done.stderr
    assert 'deep.png: not 8-bit' in done.stderr  # stretched, and said
    done = command('evaluate', '--run', out, '--workers', 0, '--ks', 5)
    assert done.returncode == 0, done.stderr
    assert results(out)['settings']['train'] + results(out)['settings']['test'] == 49


def test_audit_and_stats(tiles, tmp_path):
    broken(tiles)
    done = command('data', 'audit', tiles, '--gsd', 2, '--out', tmp_path / 'report')
    assert (
        done.returncode == 0 and '24 readable, 1 not' in done.stdout and 'broken.jpg' in done.stdout
    ), done.stderr
    assert {p.name for p in (tmp_path / 'report').iterdir()} == {
        'report.md',
        'contact_sheet.jpg',
        'files.csv',
    }
    done = command('data', 'stats', samples_dir() / 'manifest.csv', '--most', 50)
    assert done.returncode == 0 and len(json.loads(done.stdout)['mean']) == 3, done.stderr
    done = command('data', 'audit', tmp_path / 'absent')
    assert done.returncode != 0 and 'absent' in done.stderr and 'Traceback' not in done.stderr


def test_evaluate_names_a_missing_run(tmp_path):
    done = command('evaluate', '--run', tmp_path / 'absent')
    assert done.returncode != 0 and 'absent' in done.stderr and 'Traceback' not in done.stderr


@pytest.mark.skipif(sys.platform == 'win32', reason='sends SIGINT')
def test_an_interrupted_run_keeps_its_weights(tmp_path):
    out = tmp_path / 'run'
    options = [
        *SMALL,
        '--steps',
        '100000',
        '--data',
        samples_dir() / 'scenes',
        '--gsd',
        '2',
        '--out',
        out,
        '--no-check',
    ]
    heed = lambda: signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # a parent in the background may have told us to ignore it
    process = subprocess.Popen(
        [sys.executable, '-m', 'satdino_nb.pretrain', *map(str, options)],
        preexec_fn=heed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        log, deadline = out / 'metrics.jsonl', time.monotonic() + 120
        while (
            process.poll() is None
            and time.monotonic() < deadline
            and not (log.exists() and log.read_text().count('\n') >= 3)
        ):
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode != 0 and 'stopped' in said and 'Traceback' not in said, said[-2000:]
    assert load_satdino(out / 'model.safetensors').config.depth == 2


def test_a_second_run_sets_the_first_aside(run):
    out, _ = run
    before = (out / 'metrics.jsonl').read_text()
    done = command(
        'pretrain',
        '--data',
        samples_dir() / 'scenes',
        '--gsd',
        2,
        '--out',
        out,
        *SMALL,
        '--seed',
        1,
    )
    assert done.returncode == 0, done.stderr
    assert (
        (out.with_name('first-1') / 'metrics.jsonl').read_text()
        == before
        != (out / 'metrics.jsonl').read_text()
    )


# satdino, the one entry point


def satdino(*words, **more):
    return subprocess.run(
        [sys.executable, '-m', 'satdino_nb', *map(str, words)],
        text=True,
        capture_output=True,
        timeout=600,
        **more,
    )


@pytest.mark.parametrize(
    'words', [[], *([name] for name, c in COMMANDS.items() if c.here)], ids=' '.join
)
def test_help_loads_nothing_heavy(words):
    code = (
        'import sys\nfrom satdino_nb.engine.commands import main\n'
        f'try:\n    main({[*words, "--help"]})\n'
        'finally:\n    print("loaded", *({"torch", "timm", "PIL", "sklearn"} & set(sys.modules)))'
    )
    done = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True, timeout=600)
    assert done.returncode == 0 and done.stdout.startswith('usage: satdino'), done.stderr
    assert done.stdout.splitlines()[-1].strip() == 'loaded'
    if words and COMMANDS[words[0]].options:
        assert COMMANDS[words[0]].help in ' '.join(done.stdout.split())
    else:
        assert {'pretrain': '--vit.patch-size', 'evaluate': '--tuning.lr'}.get(
            ' '.join(words), ''
        ) in done.stdout


@pytest.mark.parametrize(
    'words', ['pretrain', 'evaluate', 'experiment', 'data', 'data audit', 'data stats']
)
def test_help_of_a_module_loads_nothing_heavy(words):
    module, *words = words.split()
    code = (
        f'import runpy, sys\nsys.argv = ["", *{words}, "--help"]\n'
        f'try:\n    runpy.run_module("satdino_nb.{module}", run_name="__main__")\n'
        'finally:\n    print("loaded", *({"torch", "timm", "PIL", "sklearn"} & set(sys.modules)))'
    )
    done = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr
    named = ' '.join(['usage: python -m satdino_nb.' + module, *words])
    assert done.stdout.startswith(named)
    assert done.stdout.splitlines()[-1].strip() == 'loaded'


def test_the_script_is_the_module(repo):
    project = tomllib.loads((repo / 'pyproject.toml').read_text())['project']
    assert project['scripts'] == {'satdino': 'satdino_nb.engine.commands:main'}
    assert satdino('--help').stdout == satdino().stdout and 'evaluate' in satdino().stdout


def test_audit_and_stats_say_what_their_module_says(tiles):
    both = [satdino('audit', tiles, '--gsd', 2), command('data', 'audit', tiles, '--gsd', 2)]
    without_time = [re.sub(r'in \d+ s', '', done.stdout) for done in both]
    assert both[0].returncode == 0 and without_time[0] == without_time[1] and '24' in both[0].stdout
    both = [satdino('stats', '--data', tiles, '--most', 9), command('data', 'stats', tiles)]
    assert set(json.loads(both[0].stdout)) == set(json.loads(both[1].stdout))


def test_stats_are_a_file_too(tiles, tmp_path):
    out = tmp_path / 'new' / 'stats.json'
    done = satdino('stats', tiles, '--out', out)
    assert done.returncode == 0, done.stderr
    stats = {k: tuple(v) for k, v in json.loads(out.read_text()).items()}
    assert json.loads(done.stdout) == json.loads(out.read_text())
    assert stats == asdict(channel_stats(folder_tiles(tiles, gsd=2)))


@pytest.mark.parametrize(
    'words,says',
    [
        (['adit'], 'adit'),
        (['audit', 'absent'], 'absent'),
        (['stats', 'TILES', '--most', 'many'], 'many'),
        (['stats', 'TILES', '--data', 'TILES'], 'once'),
        (['pretrain', 'absent', '--gsd', 2], 'absent'),
        (['pretrain', '--data', 'TILES'], '--gsd'),
        (['evaluate', 'absent', '--models', 'satdino-nano'], 'absent'),
        (['explore', 'absent'], 'absent'),
        (['explore', 'TILES', '--collection', 'nowhere.parquet'], 'nowhere.parquet'),
    ],
    ids=lambda v: ' '.join(map(str, v)) if isinstance(v, list) else None,
)
def test_an_error_is_a_line_and_exit_code_2(tiles, tmp_path, words, says):
    if words[0] == 'explore' and not find_spec('voila'):
        pytest.skip('explore needs voila')
    done = satdino(*(tiles if w == 'TILES' else w for w in words), cwd=tmp_path)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr
    assert last.startswith('error: ') and says in last


@pytest.mark.skipif(not find_spec('voila'), reason='explore needs voila')
def test_explore_serves_a_page(tiles, tmp_path):
    with explore_command(tiles, '--gsd', 2, '--collection', tiles) as address:
        with urllib.request.urlopen(address, timeout=600) as answer:
            page = answer.read().decode()
    assert 'widget-view' in page and 'Traceback' not in page
