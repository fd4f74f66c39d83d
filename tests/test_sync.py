"""The package, the notebooks and the README say the same."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip(
    'nbdev', reason="nbdev is needed to export notebooks: pip install 'satdino_nb[dev]'"
)
BIN = Path(sys.executable).parent
NOTEBOOKS = sorted((Path(__file__).parents[1] / 'nbs').rglob('*.ipynb'))


def run(*command, cwd):
    env = os.environ | {'PATH': f'{BIN}{os.pathsep}{os.environ["PATH"]}'}
    done = subprocess.run(command, cwd=cwd, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def package_files(root):
    "Path in the package: the text of the file."
    files = (root / 'satdino_nb').rglob('*.py')
    return {str(p.relative_to(root)): p.read_text() for p in files}


@pytest.fixture
def copy(repo, tmp_path):
    "The notebooks and their settings, without the package."
    shutil.copytree(repo / 'nbs', tmp_path / 'nbs', ignore=shutil.ignore_patterns('.*'))
    for name in ('settings.ini', 'pyproject.toml', 'README.md'):
        shutil.copy(repo / name, tmp_path / name)
    return tmp_path


@pytest.mark.slow
def test_an_export_into_an_empty_package_equals_the_package(repo, copy):
    run('nbdev_export', cwd=copy)
    kept, made = package_files(repo), package_files(copy)
    assert kept.keys() == made.keys(), (
        'a module without a notebook, or a notebook that was not exported'
    )
    assert [name for name in made if made[name] != kept[name]] == [], (
        'edit the notebook, then nbdev_export'
    )


def test_notebooks_are_clean(copy):
    before = {p: p.read_bytes() for p in (copy / 'nbs').rglob('*.ipynb')}
    run('nbdev_clean', cwd=copy)
    assert [p.name for p, b in before.items() if p.read_bytes() != b] == [], 'run nbdev_clean'


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_small_whole_and_has_run(notebook):
    import nbformat

    assert notebook.stat().st_size < 1e6
    book = nbformat.read(notebook, 4)
    nbformat.validate(book)
    ids = [c.id for c in book.cells]
    assert len(set(ids)) == len(ids)
    code = [c for c in book.cells if c.cell_type == 'code']
    outputs = [o for c in code for o in c.outputs]
    assert outputs or not code, 'commit notebooks with their outputs'
    assert not [o for o in outputs if o.output_type == 'error']
    assert not [o for o in outputs if o.get('name') == 'stderr'], (
        'warnings and progress bars do not belong in a lesson'
    )


@pytest.mark.slow
def test_readme_is_the_index(repo, copy):
    shutil.copy(repo / 'Makefile', copy / 'Makefile')
    shutil.copytree(repo / 'lab', copy / 'lab')
    (copy / '.venv').symlink_to(BIN.parent)
    run(
        'make',
        '--silent',
        '--assume-old=.venv/.installed',
        'readme',
        f'README={copy}/made.md',
        cwd=copy,
    )
    assert (copy / 'made.md').read_text() == (repo / 'README.md').read_text(), 'run make readme'
