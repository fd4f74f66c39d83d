"A student's copy: runs, touches nothing of the repository, and a lesson of it can be put back."

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from satdino_nb.engine.checks import EXERCISES

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / 'lab'))
import student  # noqa: E402


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp('student') / 'lessons'
    student.main(['copy', str(made)])
    return made


def code_of(path):
    cells = json.loads(path.read_text())['cells']
    return [''.join(c['source']) for c in cells if c['cell_type'] == 'code']


def test_the_copy_has_every_lesson_and_neither_directives_outputs_nor_solutions(folder):
    numbers = {p.name for p in (REPO / 'nbs').glob('[0-9]*.ipynb') if 'solution' not in p.name}
    assert numbers <= {p.name for p in folder.glob('nbs/*.ipynb')} and len(numbers) > 15
    assert not list(folder.rglob('*solution*')) and not (folder / 'nbs/engine').exists()
    for path in folder.rglob('*.ipynb'):
        cells = json.loads(path.read_text())['cells']
        assert not any(c.get('outputs') for c in cells), path
        assert not re.search(r'^#\|', '\n'.join(code_of(path)), re.M), path
        assert len(cells) == len({c['id'] for c in cells}), path
    texts = '\n'.join(p.read_text() for p in folder.rglob('*.ipynb'))
    for name, exercise in EXERCISES.items():
        assert not any(words in texts for words in [exercise.hint, *exercise.mistakes]), name


def test_links_of_the_copy_lead_somewhere(folder):
    for path in folder.rglob('*.ipynb'):
        cells = json.loads(path.read_text())['cells']
        text = '\n\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')
        for target in re.findall(r'\]\(([^)#\s:]+)(?:#[^)]*)?\)', text):
            assert (path.parent / target).exists(), (path.name, target)


@pytest.mark.slow
def test_a_lesson_of_the_copy_runs_with_the_installed_package(folder):
    before = {p: hashlib.md5(p.read_bytes()).digest() for p in REPO.glob('*satdino_nb/**/*.py')}
    out = folder / 'ran.ipynb'
    code = (
        'import sys; from execnb.shell import CaptureShell as C; C().execute(*sys.argv[1:3], True)'
    )
    env = os.environ | {'PYTHONPATH': str(REPO), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-c', code, folder / 'nbs/00_gsd.ipynb', out]
    done = subprocess.run(
        command, cwd=folder / 'nbs', env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    cells = json.loads(out.read_text())['cells']
    assert sum(bool(c.get('outputs')) for c in cells) > 3
    kinds = [o['output_type'] for c in cells for o in c.get('outputs', [])]
    assert 'error' not in kinds
    assert before == {p: hashlib.md5(p.read_bytes()).digest() for p in before}
    out.unlink()


def test_reset_puts_a_lesson_back_and_keeps_what_was_there(folder, capsys):
    path = folder / 'nbs/03_views.ipynb'
    first = path.read_text()
    for n, mine in enumerate(['my own', 'again'], 1):
        path.write_text(mine)
        student.main(['reset', str(folder), '03'])
        assert path.read_text() == first
        assert (folder / f'kept/03_views-{n}.ipynb').read_text() == mine
    assert 'yours is kept' in capsys.readouterr().out
    path.unlink()
    student.main(['reset', str(folder), '03_views.ipynb'])
    assert path.read_text() == first


@pytest.mark.parametrize(
    'name,stem',
    [('07', '07_evaluate'), ('07.1', '07_1_intervals'), ('00', '00_gsd'), ('index', 'index')],
)
def test_a_lesson_is_named_by_its_number(name, stem):
    assert student.named(name).stem == stem


def test_what_cannot_be_done_says_what_to_do(folder, tmp_path):
    with pytest.raises(SystemExit, match="no lesson '99'; there are .*03_views"):
        student.main(['reset', str(folder), '99'])
    with pytest.raises(SystemExit, match='is no copy of the lessons; make student'):
        student.main(['reset', str(tmp_path), '03'])
    with pytest.raises(SystemExit, match='not empty'):
        student.main(['copy', str(folder)])
    with pytest.raises(SystemExit, match='is in the repository'):
        student.main(['copy', str(REPO / 'nbs/mine')])
    assert not (REPO / 'nbs/mine').exists()


def test_outputs_are_kept_on_demand():
    shown = student.students(Path('nbs/00_gsd.ipynb'), outputs=True)
    assert any(c.get('outputs') for c in shown['cells'])


def declared():
    "The project's dependencies, and those of each extra with the extras that it names."
    project = tomllib.loads((REPO / 'pyproject.toml').read_text())['project']
    extras = project['optional-dependencies']

    def of(name):
        for line in extras[name]:
            if inner := re.match(r'satdino_nb\[(.*)\]', line):
                for other in inner[1].split(','):
                    yield from of(other)
            else:
                yield line

    return project['dependencies'], {name: set(of(name)) for name in extras}


def test_binder_asks_for_what_the_project_asks_for():
    lines = (REPO / '.binder/requirements.txt').read_text().splitlines()
    asked = [line for line in lines if line and not line.startswith(('#', '--'))]
    plain, extras = declared()
    assert len(asked) == len(set(asked)) and set(asked) == set(plain) | extras['lab']
    python = (REPO / '.binder/runtime.txt').read_text().strip()
    assert re.fullmatch(r'python-3\.1[1-9]', python)
    script = REPO / '.binder/postBuild'
    assert os.access(script, os.X_OK) and script.read_text().startswith('#!/usr/bin/env bash')
    assert subprocess.run(['bash', '-n', script]).returncode == 0


def test_colab_installs_extras_that_there_are():
    first, then = code_of(REPO / 'lab/colab.ipynb')
    extras = re.search(r'satdino_nb\[([^\]]+)\]', first)[1].split(',')
    _, known = declared()
    assert set(extras) <= known.keys()
    assert re.search(r'"(ipywidgets[^"]+)"', first)[1] in known['lab']
    assert f'{student.settings()["user"]}/{student.settings()["repo"]}' in first
    guide = (REPO / 'docs/troubleshooting.md').read_text()
    assert first.replace('\n\n', '\n') in guide
    compile(then, 'colab', 'exec')


def test_options_in_the_guide_are_there():
    guide = (REPO / 'docs/troubleshooting.md').read_text()
    from satdino_nb.engine.recipe import PretrainConfig

    named = set(re.findall(r'`--([a-z-]+)[` ]', guide)) - {'dry-run'}
    assert len(named) >= 3
    for option in named:
        assert option.replace('-', '_') in PretrainConfig.__dataclass_fields__, option
