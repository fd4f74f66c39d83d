"""Runs that are killed, stopped, starved of disk or damaged, and go on."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch
from safetensors.torch import load_file

from satdino_nb.data import samples_dir
from satdino_nb.pretrain import newest_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == 'win32', reason='sends signals')]

OPTIONS = (
    '--gsd 2 --batch-size 16 --workers 0 --views.global-size 32 --views.local-size 16 '
    '--views.n-local 3 --vit.img-size 32 --vit.embed-dim 48 --vit.num-heads 3 --vit.depth 2 '
    '--out-dim 128 --hidden-dim 64 --bottleneck-dim 32 --drop-path 0.2 --no-check --held-out 0.5'
).split()
OPTIONS += ['--data', str(samples_dir() / 'scenes')]

# imports once, then runs each line of its input as a command line in a child process,
# and says its pid and how it ended
NURSERY = """
import os, sys
import satdino_nb.pretrain as p, tyro
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        log = os.open(os.environ['LOG'], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        try: p.main(line.split()); code = 0
        except SystemExit as e: code = e.code if isinstance(e.code, int) else 1
        finally: sys.stdout.flush()
        os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope='module')
def start(tmp_path_factory):
    """A function that starts a command line.

    It gives the pid and a function that waits for the exit code.
    """
    log = tmp_path_factory.mktemp('log') / 'log.txt'
    nursery = subprocess.Popen(
        [sys.executable, '-c', NURSERY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, 'LOG': str(log), 'OMP_NUM_THREADS': '1', 'TQDM_DISABLE': '1'},
    )

    def begin(*args):
        print(*args, file=nursery.stdin, flush=True)
        return int(nursery.stdout.readline()), lambda: int(nursery.stdout.readline())

    begin.log = log
    yield begin
    nursery.stdin.close()
    nursery.wait(30)


def finished(start, *args):
    _, ended = start(*args)
    code = ended()
    assert code == 0, start.log.read_text()[-3000:]


@pytest.fixture(scope='module')
def unbroken(start, tmp_path_factory):
    out = tmp_path_factory.mktemp('unbroken') / 'run'
    finished(
        start,
        *OPTIONS,
        '--steps',
        60,
        '--save-every',
        1,
        '--log-every',
        1,
        '--knn-every',
        20,
        '--out',
        out,
    )
    return out


def same_weights(a, b):
    one, two = load_file(a / 'model.safetensors'), load_file(b / 'model.safetensors')
    states = [
        load_file(newest_checkpoint(x / 'checkpoints')[0] / 'model.safetensors') for x in (a, b)
    ]
    return all(torch.equal(one[k], two[k]) for k in one) and all(
        torch.equal(states[0][k], states[1][k]) for k in states[0]
    )


def test_killed_twenty_times_the_weights_are_the_same(start, tmp_path):
    """SIGKILL at twenty random moments; then the run is let finish.

    Every other time while a checkpoint is being written.
    """
    out, rng = tmp_path / 'run', random.Random(0)
    command = [*OPTIONS, '--steps', 240, '--save-every', 1, '--log-every', 1, '--knn-every', 50]
    finished(start, *command, '--out', tmp_path / 'unbroken')
    names, in_writing, done = (lambda: {p.name for p in out.glob('checkpoints/*')}), 0, [0]
    for n in range(20):
        before = names()
        pid, ended = start(*command, '--resume', '--out', out)
        if n % 5:  # at times before the first step
            while not names() - before:
                time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.3))
        while n % 2 and not list(out.glob('checkpoints/*.part')):
            pass
        os.kill(pid, signal.SIGKILL)
        assert ended() == -signal.SIGKILL, start.log.read_text()[-2000:]
        in_writing += bool(list(out.glob('checkpoints/*.part')))
        found = newest_checkpoint(out / 'checkpoints')
        done.append(found[1]['done'] if found else 0)
    assert done == sorted(done) and done[-1] < 240 and in_writing >= 5, (done, in_writing)
    finished(start, *command, '--resume', '--out', out)
    assert same_weights(out, tmp_path / 'unbroken'), done
    rows, expected = (
        [json.loads(line) for line in (x / 'metrics.jsonl').read_text().splitlines()]
        for x in (out, tmp_path / 'unbroken')
    )
    assert [(r['step'], r['loss'], r.get('knn')) for r in rows] == [
        (r['step'], r['loss'], r.get('knn')) for r in expected
    ]
    assert not list(out.glob('**/*.part'))


def test_sigterm_checkpoints_and_ends_without_error(start, unbroken, tmp_path):
    out = tmp_path / 'run'
    command = [
        *OPTIONS,
        '--steps',
        60,
        '--save-every',
        1000,
        '--log-every',
        1,
        '--knn-every',
        20,
        '--out',
        out,
    ]
    pid, ended = start(*command)
    while (
        not (out / 'metrics.jsonl').exists() or (out / 'metrics.jsonl').read_text().count('\n') < 5
    ):
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    assert ended() == 0
    checkpoint, state = newest_checkpoint(out / 'checkpoints')
    assert (
        5 <= state['done'] < 60 and f'stopped after {state["done"]} of 60' in start.log.read_text()
    )
    finished(start, *command, '--resume')
    assert same_weights(out, unbroken)


def test_a_damaged_checkpoint_is_passed_over(start, unbroken, tmp_path):
    out = tmp_path / 'run'
    command = [
        *OPTIONS,
        '--steps',
        60,
        '--save-every',
        5,
        '--keep',
        3,
        '--log-every',
        1,
        '--knn-every',
        20,
        '--out',
        out,
        '--resume',
    ]
    finished(start, *command)
    checkpoints = sorted((out / 'checkpoints').iterdir())
    last = [p for p in checkpoints if p.name == 'step-00000060'][0]
    content = bytearray((last / 'optimizer.bin').read_bytes())
    content[len(content) // 2] ^= 1
    (last / 'optimizer.bin').write_bytes(content)
    (out / 'model.safetensors').unlink()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        assert newest_checkpoint(out / 'checkpoints')[0].name == 'step-00000055'
    assert 'step-00000060' in str(said[0].message) and 'damaged' in str(said[0].message)
    finished(start, *command)
    assert 'step-00000060: damaged' in start.log.read_text() and same_weights(out, unbroken)


def test_the_last_and_the_best_are_kept(unbroken):
    rows = [json.loads(line) for line in (unbroken / 'metrics.jsonl').read_text().splitlines()]
    looks = {r['step'] + 1: r['knn'] for r in rows if 'knn' in r}
    best = min(s for s in looks if looks[s] == max(looks.values()))  # the first of the best
    assert {p.name for p in (unbroken / 'checkpoints').iterdir()} == {
        f'step-{s:08d}' for s in (59, 60, best)
    }


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='limits the size of files')
def test_no_room_on_the_disk_leaves_the_last_good_checkpoint(tmp_path):
    """A real write error of the operating system in the third checkpoint.

    Files may not grow over a limit.
    """
    script = """
import resource, sys
import satdino_nb.pretrain as p
def watch(rows, c):
    limits = (40_000, resource.RLIM_INFINITY)
    if rows[-1]['step'] == 2: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
plain = p.pretrain
p.pretrain = lambda c: plain(c, watch=watch)
p.main(sys.argv[1:])
"""
    out = tmp_path / 'run'
    done = subprocess.run(
        [
            sys.executable,
            '-c',
            script,
            *OPTIONS,
            '--steps',
            '9',
            '--save-every',
            '1',
            '--log-every',
            '1',
            '--out',
            out,
        ],
        text=True,
        capture_output=True,
    )
    assert done.returncode != 0 and 'Traceback' not in done.stderr, done.stderr
    assert (
        'step-00000003' in done.stderr
        and 'disk full' in done.stderr
        and 'step-00000002' in done.stderr
    ), done.stderr
    assert [p.name for p in sorted((out / 'checkpoints').iterdir())] == [
        'step-00000001',
        'step-00000002',
    ]
    assert newest_checkpoint(out / 'checkpoints')[1]['done'] == 2
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'satdino_nb.pretrain',
            *OPTIONS,
            '--steps',
            '9',
            '--save-every',
            '1',
            '--log-every',
            '1',
            '--out',
            out,
            '--resume',
        ],
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0 and newest_checkpoint(out / 'checkpoints')[1]['done'] == 9, (
        done.stderr
    )


def test_other_images_are_another_run(start, unbroken, tmp_path):
    few = tmp_path / 'few'
    few.mkdir()
    for name in ('forest', 'sea', 'river'):
        (few / name).symlink_to(samples_dir() / 'scenes' / name)
    copy = tmp_path / 'run'
    subprocess.run(['cp', '-r', unbroken, copy], check=True)
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'satdino_nb.pretrain',
            *OPTIONS,
            '--data',
            str(samples_dir() / 'scenes' / 'forest'),
            '--held-out',
            '0',
            '--steps',
            '60',
            '--out',
            copy,
            '--resume',
        ],
        text=True,
        capture_output=True,
    )
    assert (
        done.returncode != 0
        and 'images: ' in done.stderr
        and 'held_out: 0.5 -> 0.0' in done.stderr
        and '--allow-changes' in done.stderr
    ), done.stderr


@pytest.mark.parametrize('how', ['error', 'SIGTERM to all', 'SIGINT to all'])
def test_loading_processes_end_with_the_run(tmp_path, how):
    """After an error in the loop, and after a signal.

    The signal reaches the loading processes too, as schedulers and terminals send it.
    """
    out = tmp_path / 'run'
    options = [
        *OPTIONS,
        '--workers',
        '2',
        '--steps',
        '100000',
        '--save-every',
        '100000',
        '--log-every',
        '1',
        '--out',
        str(out),
    ]
    if how == 'error':
        options += ['--lr', '1e30']
    process = subprocess.Popen(
        [sys.executable, '-m', 'satdino_nb.pretrain', *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        while (
            how != 'error'
            and process.poll() is None
            and not (
                (out / 'metrics.jsonl').exists()
                and (out / 'metrics.jsonl').read_text().count('\n') >= 3
            )
        ):
            time.sleep(0.05)
        if how != 'error':
            os.killpg(process.pid, signal.SIGTERM if 'TERM' in how else signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
            left = True
        except ProcessLookupError:
            left = False
    assert not left and 'Traceback' not in said, said[-3000:]
    assert process.returncode == (0 if 'TERM' in how else 1) and (
        'loss is' in said if how == 'error' else 'stopped after' in said
    )
    if how != 'error':
        assert newest_checkpoint(out / 'checkpoints')[1]['done'] >= 3
