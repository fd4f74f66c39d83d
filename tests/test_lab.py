"""`make lab` serves the repository and opens at the course's index."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from browsing import PLACES

pytest.importorskip('jupyterlab', reason='JupyterLab is not installed')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which('make') is None, reason='no make on the PATH'),
]


def test_make_lab_opens_at_the_index(repo, tmp_path):
    venv = Path(sys.executable).parents[1]
    places = {k: str(tmp_path / k.lower()) for k in PLACES}
    command = [
        'make',
        f'--assume-old={venv}/.installed',
        f'--assume-old={venv}/.course',
        'lab',
        f'VENV={venv}',
        'ARGS=--no-browser --port 0 --ServerApp.ip=127.0.0.1 --IdentityProvider.token=t',
    ]
    log = tmp_path / 'log'
    with open(log, 'w') as out:
        server = subprocess.Popen(
            command,
            cwd=repo,
            env=os.environ | places,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        for _ in range(240):
            if (
                found := re.search(r'http://127\.0\.0\.1:(\d+)(/\S*)\?token', log.read_text())
            ) or server.poll() is not None:
                break
            time.sleep(0.25)
        assert found, log.read_text()[-3000:]
        port, page = found.groups()
        assert page == '/lab/tree/nbs/index.ipynb'
        get = lambda path: json.load(
            urllib.request.urlopen(
                f'http://127.0.0.1:{port}/api/contents/{path}?content=0&token=t', timeout=10
            )
        )
        assert (
            get('nbs/index.ipynb')['type'] == 'notebook'
            and get('data_samples')['type'] == 'directory'
        )
        assert (
            urllib.request.urlopen(f'http://127.0.0.1:{port}{page}?token=t', timeout=10).status
            == 200
        )
        notification = json.load(
            urllib.request.urlopen(
                f'http://127.0.0.1:{port}/lab/api/settings/@jupyterlab/apputils-extension:notification?token=t',
                timeout=10,
            )
        )
        default = {name: p['default'] for name, p in notification['schema']['properties'].items()}
        # "none", JupyterLab's own default, asks whether to fetch news
        assert default['fetchNews'] == 'false'
        assert default['checkForUpdates'] is False
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)
