"""What a plain install gives: a light import, few requirements, a wheel that works."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

pytestmark = pytest.mark.slow  # processes of their own, most of which import torch


def test_the_version_is_the_same_everywhere(repo):
    import configparser

    settings = configparser.ConfigParser(interpolation=None)
    settings.read(repo / 'settings.ini')
    version = settings['DEFAULT']['version']
    for name, line in {
        'satdino_nb/__init__.py': f'__version__ = "{version}"',
        'CITATION.cff': f'version: {version}',
    }.items():
        assert line in (repo / name).read_text().splitlines(), name
    assert re.search(r'^## (\S+)', (repo / 'CHANGELOG.md').read_text(), re.M)[1] == version


def python(code, cwd):
    done = subprocess.run([sys.executable, '-c', code], cwd=cwd, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_import_loads_nothing_heavy(tmp_path):
    loaded = python(
        'import sys; before = set(sys.modules); '
        'import satdino_nb; print(*(set(sys.modules) - before))',
        tmp_path,
    )
    assert loaded == ['satdino_nb']


@pytest.mark.parametrize(
    'module',
    [
        'gsd',
        'data',
        'views',
        'vit',
        'dino',
        'pretrain',
        'intervals',
        'features',
        'classify',
        'segment',
        'readout',
        'finetune',
        'evaluate',
        'patches',
        'attention',
        'embed',
        'explorer',
        'scenes',
        'search',
    ],
)
def test_no_module_loads_what_it_is_not_about(module, tmp_path):
    loaded = set(python(f'import sys, satdino_nb.{module}; print(*sys.modules)', tmp_path))
    assert f'satdino_nb.{module}' in loaded
    assert not loaded & {
        'umap',
        'tyro',
        'rasterio',
        'nbdev',
        'fastcore',
        'IPython',
        'ipywidgets',
        'anywidget',
        'matplotlib.pyplot',
        'sklearn',
        'torchmetrics',
        'geopandas',
    }
    if module == 'gsd':
        assert 'torch' not in loaded
    if module not in ('pretrain', 'evaluate'):
        assert 'accelerate' not in loaded


# distributions that no plain installation asks for
DEVELOPERS = ('nbdev', 'fastcore', 'execnb', 'jupyter', 'umap', 'rasterio', 'torchmetrics')


def test_wheel_holds_the_package_and_asks_for_no_developer_tools(repo, tmp_path):
    source = tmp_path / 'source'  # a copy: building writes into its folder
    shutil.copytree(
        repo, source, ignore=shutil.ignore_patterns('.venv', '.git', 'build', '*.egg-info', 'runs')
    )
    build = subprocess.run(
        [
            sys.executable,
            '-m',
            'pip',
            'wheel',
            '--quiet',
            '--no-deps',
            '--no-build-isolation',
            '-w',
            tmp_path,
            source,
        ],
        text=True,
        capture_output=True,
    )
    assert build.returncode == 0, build.stderr
    (wheel,) = tmp_path.glob('*.whl')
    with zipfile.ZipFile(wheel) as z:
        names = z.namelist()
        metadata = z.read(next(n for n in names if n.endswith('METADATA'))).decode()
    modules = {n for n in names if n.startswith('satdino_nb/')}
    package = [
        p for kind in ('*.py', '*.js', '*.css', '*.json') for p in (repo / 'satdino_nb').rglob(kind)
    ]
    assert modules == {str(p.relative_to(repo)) for p in package}
    for name in ('common', 'tile_map', 'explorer'):  # what the browser draws with
        assert f'satdino_nb/engine/static/{name}.js' in modules
    required = [
        line
        for line in metadata.splitlines()
        if line.startswith('Requires-Dist') and 'extra ==' not in line
    ]
    assert required and not [r for r in required if any(d in r for d in DEVELOPERS)]
    venv = tmp_path / 'venv'  # installed: outside the repository, and found there
    subprocess.run([sys.executable, '-m', 'venv', '--system-site-packages', venv], check=True)
    inside = venv / ('Scripts' if sys.platform == 'win32' else 'bin') / 'python'
    subprocess.run(
        [inside, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', wheel],
        check=True,
        capture_output=True,
    )
    elsewhere = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    where = subprocess.run(
        [inside, '-c', 'import satdino_nb; print(satdino_nb.__file__)'],
        cwd=tmp_path,
        env=elsewhere,
        text=True,
        capture_output=True,
    )
    assert where.stdout.strip().startswith(str(venv)), where.stderr


# distributions whose name is not that of the module
DISTRIBUTIONS = {
    'PIL': 'pillow',
    'sklearn': 'scikit-learn',
    'cv2': 'opencv-python-headless',
    'umap': 'umap-learn',
    'IPython': 'ipython',
    'faiss': 'faiss-cpu',
}
# which extra brings a module that a plain installation lacks;
# whoever needs it is told so, or sits in a notebook
EXTRAS = {
    'cv2': 'fast',
    'umap': 'maps',
    'IPython': 'lab',
    'ipywidgets': 'lab',
    'anywidget': 'widgets',
    'faiss': 'search',
    'pyarrow': 'tables',
    'rasterio': 'geo',
    'geopandas': 'geo',
    'matplotlib_inline': 'lab',
    'shapely': 'geo',
}


def imports(path):
    """Imports from outside the package and the standard library.

    `(module, whether it is imported on loading)` for each.
    """
    tree = ast.parse(path.read_text())
    inside = {
        n
        for f in ast.walk(tree)
        if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)
        for n in ast.walk(f)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        else:
            continue
        for name in {n.split('.')[0] for n in names} - sys.stdlib_module_names - {'satdino_nb'}:
            yield name, node not in inside


def declared(requirements):
    return {re.match(r'[\w.-]+', r)[0].lower().replace('_', '-') for r in requirements}


def test_what_the_package_imports_is_declared(repo):
    project = tomllib.loads((repo / 'pyproject.toml').read_text())['project']
    plain, extras = declared(project['dependencies']), project['optional-dependencies']
    found = {
        (name, on_load)
        for path in (repo / 'satdino_nb').rglob('*.py')
        for name, on_load in imports(path)
    }
    modules = {name for name, _ in found}
    assert {'torch', 'sklearn', 'rasterio'} <= modules
    distribution = {name: DISTRIBUTIONS.get(name, name).replace('_', '-') for name in modules}
    lacking = {n for n in modules - EXTRAS.keys() if distribution[n] not in plain}
    assert not lacking, 'imported, but not in [project.dependencies]'
    lacking = {
        n for n in modules & EXTRAS.keys() if distribution[n] not in declared(extras[EXTRAS[n]])
    }
    assert not lacking, 'imported, but not in the extra that brings it'
    assert not {name for name, on_load in found if on_load and name in EXTRAS}, (
        'an extra that no module loads without'
    )
    assert not plain - set(distribution.values()), (
        'declared, but the package never imports it; tests and notebooks have [dev]'
    )


# make venv


@pytest.fixture
def make_venv(repo, tmp_path):
    """What `make venv` would run.

    With a uv on the PATH or without, and with pip told what `pip` says.
    """
    if shutil.which('make') is None:
        pytest.skip('no make on the PATH')
    (tmp_path / 'bin').mkdir()

    def run(*args, uv=True, pip=()):
        fake = tmp_path / 'bin' / 'uv'
        fake.unlink(missing_ok=True)
        if uv:
            fake.write_text('#!/bin/sh\n')
            fake.chmod(0o755)
        path = [p for p in os.environ['PATH'].split(os.pathsep) if not os.path.exists(f'{p}/uv')]
        env = {
            k: v for k, v in os.environ.items() if not k.startswith(('PIP_', 'MAKE', 'INSTALLER'))
        }
        env |= {
            'PATH': os.pathsep.join([str(tmp_path / 'bin'), *path]),
            'PIP_CONFIG_FILE': os.devnull,
            **dict(pip),
        }
        command = [
            'make',
            '--dry-run',
            'venv',
            f'VENV={tmp_path}/venv',
            f'PYTHON={sys.executable}',
            *args,
        ]
        return subprocess.run(command, cwd=repo, env=env, text=True, capture_output=True)

    return run


def test_make_venv_takes_uv_where_it_is_installed(make_venv):
    assert 'uv pip install' in make_venv().stdout
    without = make_venv(uv=False).stdout
    assert 'uv pip' not in without and '-m pip install' in without


@pytest.mark.parametrize(
    'told',
    ['PIP_CONSTRAINT', 'PIP_FIND_LINKS', 'PIP_INDEX_URL', 'PIP_EXTRA_INDEX_URL', 'PIP_NO_INDEX'],
)
def test_make_venv_takes_pip_where_pip_is_configured(make_venv, told):
    assert '-m pip install' in make_venv(pip={told: '1'}).stdout
    assert 'uv pip install' in make_venv('INSTALLER=uv', pip={told: '1'}).stdout


def test_make_venv_takes_what_it_is_told(make_venv):
    assert '-m pip install' in make_venv('INSTALLER=pip').stdout
    wrong = make_venv('INSTALLER=conda')
    assert wrong.returncode and 'INSTALLER is pip or uv, not "conda"' in wrong.stderr


@pytest.mark.parametrize('installer', ['pip', 'uv'])
def test_make_venv_takes_the_build_of_torch_that_it_is_told(make_venv, installer):
    "From the index of that build, before all else, so that what follows finds it there."
    said = make_venv(f'INSTALLER={installer}', 'TORCH=cpu').stdout.splitlines()
    torch, rest = (
        next(i for i, line in enumerate(said) if w in line) for w in ('whl/cpu', "-e '.")
    )
    assert torch < rest and f'{installer} ' in said[torch] and ' install ' in said[torch]
    assert said[torch].endswith(
        '--index-url https://download.pytorch.org/whl/cpu torch torchvision'
    )
    other = make_venv(f'INSTALLER={installer}', 'TORCH=cpu', 'TORCH_INDEX=file:///wheels').stdout
    assert '--index-url file:///wheels torch torchvision' in other
    assert 'index-url' not in make_venv(f'INSTALLER={installer}').stdout
