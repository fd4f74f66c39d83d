"""A JupyterLab of its own and a browser before it, for the tests of widgets."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

BROWSER = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
)
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
HERE = r'(https?|wss?)://(127\.0\.0\.1|localhost)[:/]|data:|blob:'  # addresses on this machine
NO_BROWSER = (
    'no chromium or google-chrome on the PATH: install one, such as apt-get install chromium '
    'fonts-dejavu-core'
)
# marks of a module of browser tests; its optional packages are asked for by `needs`
IN_A_BROWSER = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER),
]
PLACES = (
    'JUPYTER_CONFIG_DIR',
    'JUPYTER_DATA_DIR',
    'JUPYTER_RUNTIME_DIR',
    'IPYTHONDIR',
    'JUPYTERLAB_SETTINGS_DIR',
    'JUPYTERLAB_WORKSPACES_DIR',
    'MPLCONFIGDIR',
)
PATIENCE = float(os.environ.get('SATDINO_BROWSER_SECONDS', 60))  # for what starts processes


def needs(*packages):
    "Skip the module that is imported now where one of `packages` or the playwright library lacks."
    for name in ('jupyterlab', *packages, 'playwright.sync_api'):
        pytest.importorskip(name, reason=f'{name} is not installed')


def write_notebook(path, cells):
    "A notebook of code cells; `cells` are their texts."
    made = [
        dict(
            cell_type='code',
            id=f'cell-{i}',
            metadata={},
            execution_count=None,
            outputs=[],
            source=text.strip(),
        )
        for i, text in enumerate(cells)
    ]
    kernel = dict(display_name='python3', language='python', name='python3')
    metadata = dict(kernelspec=kernel)
    path.write_text(json.dumps(dict(cells=made, metadata=metadata, nbformat=4, nbformat_minor=5)))


@contextmanager
def jupyterlab(folder):
    """A JupyterLab that serves `folder / 'work'`; gives a notebook's address by its name.

    All its settings lie in `folder`.
    """
    work = folder / 'work'
    root = str(Path(__file__).parents[1])
    env = {
        **os.environ,
        **{k: str(folder / k.lower()) for k in PLACES},
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
    quiet = folder / 'jupyterlab_settings_dir' / '@jupyterlab' / 'apputils-extension'
    quiet.mkdir(parents=True)
    news = dict(fetchNews='false', checkForUpdates=False)  # asked in a corner, over what is tested
    (quiet / 'notification.jupyterlab-settings').write_text(json.dumps(news))
    command = [sys.executable, '-m', 'jupyterlab', *options]
    with open(folder / 'lab.log', 'w') as log:
        server = subprocess.Popen(command, cwd=work, env=env, stdout=log, stderr=log)
    try:
        address = f'http://127.0.0.1:{port}'
        wait_for(f'{address}/api?token=t', server)
        assert server.poll() is None, (folder / 'lab.log').read_text()[-3000:]
        yield lambda name: f'{address}/doc/tree/{name}?token=t&reset'
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()


@contextmanager
def explore_command(*words):
    "The page of `satdino explore words`, started as a command; gives its address."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    command = [sys.executable, '-m', 'satdino_nb', 'explore', *words, '--port', port]
    server = subprocess.Popen(
        [str(w) for w in (*command, '--no-browser')],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 600
        while server.poll() is None and time.monotonic() < end:
            with socket.socket() as s:
                if s.connect_ex(('127.0.0.1', port)) == 0:
                    break
            time.sleep(0.5)
        assert server.poll() is None, 'satdino explore ended'
        yield f'http://localhost:{port}/'
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def wait_for(address, server):
    "Until the server answers or ends; fails after `PATIENCE`."
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=1)
            return
        except OSError:
            time.sleep(0.25)
    if server.poll() is None:
        pytest.fail(f'JupyterLab did not answer within {PATIENCE:.0f} s')


@contextmanager
def browser_page(**viewport):
    """A page of a browser, `(page, errors of its console, addresses elsewhere that it asked)`.

    - `viewport`: its width and height, in pixels.
    """
    from playwright.sync_api import sync_playwright

    console, elsewhere = [], []
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS)
        context = browser.new_context(viewport=viewport)
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.on('console', lambda m: console.append(m.text) if m.type == 'error' else None)
        page.on('pageerror', lambda e: console.append(str(e)))
        context.on('request', lambda r: re.match(HERE, r.url) or elsewhere.append(r.url))
        yield page, console, elsewhere
        browser.close()


def open_notebook(page, address, run=True):
    "Open a notebook and wait for its kernel; run all of its cells."
    page.goto(address)
    page.wait_for_function(IDLE)
    page.locator('.jp-CodeCell').first.wait_for()
    if run:
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")


def screenshot(page, name):
    "Save a picture of the page under SATDINO_SCREENSHOTS, if that is set."
    if folder := os.environ.get('SATDINO_SCREENSHOTS'):
        page.screenshot(path=f'{folder}/{name}.png')


def widget_errors(console):
    "Lines of the console that a widget may have caused."
    return [m for m in console if re.search('widget|comm|model|noUi|TraitError', m, re.I)]
