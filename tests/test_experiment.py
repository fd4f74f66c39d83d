"""Experiments by command: refused early, planned, in the background, stopped and given again."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from satdino_nb.experiment import main, pending, read_experiment, read_results

TOY = """
question = "Does it run?"
data = {scenes = 60, gsd = [0.5, 5.0], size = 24}
samples = 64
seeds = [0, 1]
base = "laptop"
measures = ["knn", "gsd_octaves"]
[settings]
batch_size = 16
device = "cpu"
vit = {img_size = 16, patch_size = 8, embed_dim = 16, depth = 1, num_heads = 1}
views = {global_size = 16, local_size = 8, n_local = 2}
out_dim = 32
hidden_dim = 16
bottleneck_dim = 8
[arms.none]
gamma = 0.0
[arms."loss, heavy"]
gamma = 1.0
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'toy.toml'
    path.write_text(TOY)
    return path


@pytest.mark.parametrize(
    'change, said',
    [
        (('gamma = 1.0', 'gamma = "much"'), 'toy.toml'),
        (('gamma = 1.0', 'gamm = 1.0'), "arm loss, heavy: no setting 'gamm'; did you mean gamma"),
        (('scenes = 60', 'scene = 60'), 'no option .scene.*did you mean scenes'),
        (('samples = 64', ''), "'samples' is missing"),
        (('[arms', '[[arms'), 'not a TOML file'),
    ],
)
def test_a_wrong_file_ends_in_a_line(toy, change, said):
    toy.write_text(TOY.replace(*change))
    with pytest.raises(SystemExit) as end:
        main([str(toy)])
    assert re.search(said, str(end.value)) and str(end.value).startswith('error: '), end.value
    assert len(str(end.value).splitlines()) == 1 and not (toy.parent / 'runs').exists()


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SystemExit, match='error: .*nothing.toml'):
        main([str(tmp_path / 'nothing.toml')])


def test_every_experiment_of_the_course_can_be_read(repo):
    files = sorted((repo / 'nbs' / 'experiments').glob('*.toml'))
    assert files
    for path in files:
        e = read_experiment(path)
        assert len(e.arms) > 1 and len(e.seeds) > 2, path
        rows = read_results(repo / 'bench' / 'results' / 'experiments' / f'{e.name}.csv')
        assert not rows or list(rows[0]) == e.columns, path
        pending(e, rows)  # refuses rows of other settings: a new one belongs in LATER


@pytest.mark.slow
def test_plan_run_stop_and_again(toy, capsys):
    env = os.environ | {'PYTHONPATH': str(Path(__file__).parents[1]), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-m', 'satdino_nb.experiment', str(toy)]
    main([str(toy), '--plan'])
    assert '0 runs are done, 4 are left' in capsys.readouterr().out
    started = subprocess.run([*command, '--background'], env=env, capture_output=True, text=True)
    process = int(re.search(r'process (\d+) is running', started.stdout)[1])
    table = toy.with_suffix('.csv')
    end = time.monotonic() + 1200
    while len(read_results(table)) < 1 and time.monotonic() < end:
        time.sleep(0.2)
    try:
        os.kill(process, signal.SIGTERM)
    except ProcessLookupError:
        pass  # it was done before
    while psutil.pid_exists(process) and time.monotonic() < end:
        time.sleep(0.2)
    before = read_results(table)
    assert before, (toy.parent / 'runs' / 'toy.log').read_text()
    again = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1200)
    assert again.returncode == 0, again.stderr
    rows = read_results(table)
    assert rows[: len(before)] == before
    expected = [(arm, s) for s in (0, 1) for arm in ('none', 'loss, heavy')]
    assert [(r['arm'], r['seed']) for r in rows] == expected
    main([str(toy), '--plan'])
    said = capsys.readouterr().out
    assert '4 runs are done, 0 are left' in said and re.search(r'knn: .* 2 resolve', said)
