"""Diagrams are drawn by their notebook, and shown in a lesson with an alt text."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

NBS = Path(__file__).resolve().parents[1] / 'nbs'
DIAGRAMS = sorted((NBS / 'figures').glob('*.svg'))


def test_there_are_diagrams():
    assert len(DIAGRAMS) >= 5


@pytest.mark.parametrize('path', DIAGRAMS, ids=lambda p: p.stem)
def test_diagram_is_shown_with_alt_text_and_as_its_notebook_drew_it(path):
    svg = path.read_text()
    assert ElementTree.fromstring(svg).find('{http://www.w3.org/2000/svg}title').text
    drawn = json.loads((NBS / 'diagrams.ipynb').read_text())['cells']
    outputs = [o.get('data', {}) for c in drawn for o in c.get('outputs', [])]
    words = re.findall('>([^<]+)</t', svg)
    assert any(
        re.findall('>([^<]+)</t', ''.join(o.get('image/svg+xml', ''))) == words for o in outputs
    ), 'run diagrams.ipynb'
    lessons = '\n'.join(p.read_text() for p in (*NBS.glob('0*.ipynb'), NBS / 'index.ipynb'))
    alt = re.findall(rf'!\[([^\]]*)\]\(figures/{path.name}\)', lessons)
    assert len(alt) == 1 and len(alt[0]) > 80
