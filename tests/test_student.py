"A student's copy: runs, touches nothing of the repository, and a lesson of it can be put back."

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
