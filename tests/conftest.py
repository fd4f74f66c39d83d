"""Where the tests find things."""

import os
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]


@pytest.fixture(scope='session')
def repo() -> Path:
    return REPO


@pytest.fixture(scope='session')
def released() -> Path:
    "The folder of numbers made with the released implementation; see its README."
    return REPO / 'tests' / 'golden'


@pytest.fixture(scope='session')
def shared():
    "A function that gives a file or folder of the larger test imagery, or skips the test."
    root = Path(os.environ.get('SATDINO_SHARED', REPO.parent / 'shared'))

    def find(name):
        if not (root / name).exists():
            pytest.skip(f'{name} is not under SATDINO_SHARED')
        return root / name

    return find


@pytest.fixture(scope='session')
def lab_server(tmp_path_factory):
    "One JupyterLab for all browser tests: its folder, which has `work`, and `address(notebook)`."
    from browsing import jupyterlab

    folder = tmp_path_factory.mktemp('lab')
    (folder / 'work').mkdir()
    with jupyterlab(folder) as address:
        yield folder, address
