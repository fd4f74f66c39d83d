"""The explorer in JupyterLab and a browser.

Pictures are square, a key moves the crop, the numbers are right, nothing leaves the machine.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip('jupyterlab', reason='JupyterLab is not installed')
pytest.importorskip('ipywidgets', reason='ipywidgets is not installed')
sync_api = pytest.importorskip(
    'playwright.sync_api', reason='the playwright library is not installed'
)
BROWSER = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason='no chromium or google-chrome on the PATH'),
]

GSD, SIDE, OUT = 0.5, 200, 64  # metres per pixel; pixels of the crop and of the network's input
CELL = f"""
import torch
from satdino_nb.data import Tile
from satdino_nb.explorer import Explorer
y, x = torch.meshgrid(torch.arange(500), torch.arange(600), indexing='ij')
image = torch.stack([40 + 120*((x//40 + y//40) % 2), y//2, x//3]).byte()
explorer = Explorer({{'field': Tile(image, {GSD})}}, out={OUT})
explorer
"""
FLAGS = [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--disable-background-networking',
    '--disable-component-update',
    '--no-first-run',
    '--mute-audio',
    '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost',
]
IDLE = (
    '() => window.jupyterapp?.shell?.currentWidget?.context'
    "?.sessionContext?.session?.kernel?.status === 'idle'"
)


@pytest.fixture
def lab(tmp_path):
    """Address of a JupyterLab that serves a notebook `x.ipynb` with the explorer in it.

    All its settings lie in `tmp_path`.
    """
    cell = dict(
        cell_type='code',
        id='explorer',
        metadata={},
        execution_count=None,
        outputs=[],
        source=CELL.strip(),
    )
    kernel = dict(display_name='python3', language='python', name='python3')
    work = tmp_path / 'work'
    work.mkdir()
    (work / 'x.ipynb').write_text(
        json.dumps(
            dict(cells=[cell], metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)
        )
    )
    places = {
        k: str(tmp_path / k.lower())
        for k in (
            'JUPYTER_CONFIG_DIR',
            'JUPYTER_DATA_DIR',
            'JUPYTER_RUNTIME_DIR',
            'IPYTHONDIR',
            'JUPYTERLAB_SETTINGS_DIR',
            'JUPYTERLAB_WORKSPACES_DIR',
            'MPLCONFIGDIR',
        )
    }
    root = str(Path(__file__).parents[1])
    env = {
        **os.environ,
        **places,
        'OMP_NUM_THREADS': '1',
        'PYTHONPATH': os.pathsep.join(filter(None, [root, os.environ.get('PYTHONPATH')])),
    }
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    options = [
        '--no-browser',
        '--allow-root',
        f'--ServerApp.port={port}',
        '--ServerApp.ip=127.0.0.1',
        '--ServerApp.port_retries=0',
        '--IdentityProvider.token=t',
        '--LabApp.expose_app_in_browser=True',
        '--LabApp.extension_manager=readonly',
        f'--ServerApp.root_dir={work}',
    ]
    with open(tmp_path / 'lab.log', 'w') as log:
        server = subprocess.Popen(
            [sys.executable, '-m', 'jupyterlab', *options],
            cwd=work,
            env=env,
            stdout=log,
            stderr=log,
        )
    try:
        address = f'http://127.0.0.1:{port}'
        for _ in range(240):
            if server.poll() is not None:
                break
            try:
                urllib.request.urlopen(f'{address}/api?token=t', timeout=1)
                break
            except OSError:
                time.sleep(0.25)
        else:
            pytest.fail('JupyterLab did not answer within a minute')
        assert server.poll() is None, (tmp_path / 'lab.log').read_text()[-3000:]
        yield f'{address}/doc/tree/x.ipynb?token=t&reset'
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()


def pictures(page):
    "Natural and shown size, and address, of the overview and the view."
    script = """els => els.map(e => { const b = e.getBoundingClientRect();
                return {natural: [e.naturalWidth, e.naturalHeight],
                        shown: [b.width, b.height], src: e.src} })"""
    return page.locator('img.widget-image').evaluate_all(script)[:2]


def test_explorer_in_jupyterlab(lab):
    console, elsewhere = [], []
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS)
        page = browser.new_page(viewport=dict(width=1280, height=1100))
        page.on('console', lambda m: console.append(m.text) if m.type == 'error' else None)
        page.on('pageerror', lambda e: console.append(str(e)))
        page.on(
            'request',
            lambda r: (
                None
                if re.match(r'(https?|wss?)://(127\.0\.0\.1|localhost)[:/]|data:|blob:', r.url)
                else elsewhere.append(r.url)
            ),
        )
        page.goto(lab)
        page.wait_for_function(IDLE, timeout=60_000)
        page.locator('.jp-CodeCell').first.wait_for()
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        caption = page.locator('.widget-html-content', has_text='footprint')
        failed = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
        caption.or_(failed).first.wait_for(timeout=60_000)
        assert not failed.count(), failed.first.inner_text()
        page.wait_for_function(
            "() => [...document.querySelectorAll('img.widget-image')]"
            '.filter(e => e.naturalWidth > 0).length >= 3'
        )

        assert (
            caption.inner_text()
            == '200 x 200 px -> 64 x 64 px · effective GSD 1.56 m/px · footprint 100 m x 100 m'
        )
        overview, view = before = pictures(page)
        assert overview['natural'] == [448, 373] and view['natural'] == [
            448,
            448,
        ]  # 500 x 600 shrunk; 64 px seven times
        for picture in before:
            assert picture['shown'] == pytest.approx(picture['natural'], abs=0.5), (
                'pictures must not be stretched'
            )

        handle = page.locator('.widget-slider', has_text='Height').locator('.noUi-handle')
        handle.focus()
        for _ in range(8):
            page.keyboard.press('ArrowRight')
        page.wait_for_function(
            "() => [...document.querySelectorAll('.widget-html-content')]"
            ".some(e => e.innerText.startsWith('208 x 208 px'))",
            timeout=15_000,
        )
        assert caption.inner_text() == (
            f'208 x 208 px -> 64 x 64 px · effective GSD {208 * GSD / OUT:.3g} m/px '
            '· footprint 104 m x 104 m'
        )
        page.wait_for_function(
            "old => document.querySelectorAll('img.widget-image')[1].src !== old", arg=view['src']
        )
        after = pictures(page)
        assert all(a['src'] != b['src'] and a['shown'] == b['shown'] for a, b in zip(before, after))

        page.get_by_role('button', name='uniform').click()
        page.wait_for_function(
            "old => document.querySelectorAll('img.widget-image')[0].src !== old",
            arg=after[0]['src'],
        )
        if folder := os.environ.get('SATDINO_SCREENSHOTS'):
            page.screenshot(path=f'{folder}/explorer.png')
        browser.close()
    assert not elsewhere
    assert not [m for m in console if re.search('widget|comm|model|noUi|TraitError', m, re.I)], (
        console
    )
