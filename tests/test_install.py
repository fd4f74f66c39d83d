"""What a plain install gives: a light import, few requirements, a wheel that works."""
import subprocess
import sys
import zipfile

import pytest

pytestmark = pytest.mark.slow          # processes of their own, most of which import torch


def python(code, cwd):
    done = subprocess.run([sys.executable, '-c', code], cwd=cwd, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_import_loads_nothing_heavy(tmp_path):
    loaded = python("import sys; before = set(sys.modules); import satdino_nb; print(*(set(sys.modules) - before))", tmp_path)
    assert loaded == ['satdino_nb']


@pytest.mark.parametrize('module', ['gsd', 'data', 'views', 'vit', 'dino', 'pretrain', 'intervals', 'features', 'classify', 'segment', 'readout', 'finetune', 'evaluate', 'attention', 'embed', 'explorer', 'scenes'])
def test_no_module_loads_what_it_is_not_about(module, tmp_path):
    loaded = set(python(f"import sys, satdino_nb.{module}; print(*sys.modules)", tmp_path))
    assert f'satdino_nb.{module}' in loaded
    assert not loaded & {'umap', 'tyro', 'rasterio', 'nbdev', 'fastcore', 'IPython', 'ipywidgets', 'matplotlib.pyplot', 'sklearn', 'torchmetrics', 'geopandas'}
    if module == 'gsd': assert 'torch' not in loaded


def test_wheel_holds_the_package_and_asks_for_no_developer_tools(repo, tmp_path):
    import shutil
    source = tmp_path/'source'       # a copy: building writes into its folder
    shutil.copytree(repo, source, ignore=shutil.ignore_patterns('.venv', '.git', 'build', '*.egg-info', 'runs'))
    build = subprocess.run([sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '-w', tmp_path, source],
                           text=True, capture_output=True)
    assert build.returncode == 0, build.stderr
    wheel, = tmp_path.glob('*.whl')
    with zipfile.ZipFile(wheel) as z:
        names = z.namelist()
        metadata = z.read(next(n for n in names if n.endswith('METADATA'))).decode()
    modules = {n for n in names if n.startswith('satdino_nb/')}
    assert modules == {f'satdino_nb/{p.name}' for p in (repo/'satdino_nb').glob('*.py')}
    required = [line for line in metadata.splitlines() if line.startswith('Requires-Dist') and 'extra ==' not in line]
    assert required and not [r for r in required if any(d in r for d in ('nbdev', 'fastcore', 'execnb', 'jupyter', 'umap', 'rasterio'))]
    venv = tmp_path/'venv'           # installed: outside the repository, and found there
    subprocess.run([sys.executable, '-m', 'venv', '--system-site-packages', venv], check=True)
    inside = venv/('Scripts' if sys.platform == 'win32' else 'bin')/'python'
    subprocess.run([inside, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', wheel], check=True, capture_output=True)
    where = subprocess.run([inside, '-c', "import satdino_nb; print(satdino_nb.__file__)"], cwd=tmp_path, text=True, capture_output=True)
    assert where.stdout.strip().startswith(str(venv)), where.stderr
