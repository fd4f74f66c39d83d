"Figures: one look, letters that can be read, nothing cut, legends off the data."

import ast
import base64
import io
import json
import re
from pathlib import Path

import matplotlib
import pytest
from matplotlib.artist import Artist
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from satdino_nb.engine.figures import PAGE, SMALL, figure_faults

REPO = Path(__file__).resolve().parents[1]
LESSONS = sorted(
    [*(REPO / 'nbs').glob('[0-9]*.ipynb'), *(REPO / 'nbs/experiments').glob('*.ipynb')]
)
PAGES = [*LESSONS, REPO / 'nbs/index.ipynb']
SIZES = re.compile(r'(?:fontsize|labelsize)=([\d.]+)')
# the map widget, whose thumbnails need the room
WIDER = {'09_embed'}
WIDTHS = re.compile(r'figsize=\(([\d.]+),')


def code_cells(path):
    "Code cells of a notebook with their sources as text."
    cells = json.loads(path.read_text())['cells']
    return [(c, ''.join(c['source'])) for c in cells if c['cell_type'] == 'code']


def figure_of(shown):
    "The figure that a cell's last value is or lies on; None if it is no drawing."
    if isinstance(shown, (Figure, SubFigure)) or not isinstance(shown, Artist):
        return shown if isinstance(shown, Figure) else None
    return shown.get_figure(root=True)


def run_cell(source, names):
    "Run a cell; what it shows, by `display` or as its last value."
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    shown = []
    names['display'] = lambda *values, **_: shown.extend(values)
    exec(compile(tree, 'cell', 'exec'), names)
    names['display'] = lambda *values, **_: shown.extend(values)
    if last is not None:
        shown.append(eval(compile(ast.Expression(last.value), 'cell', 'eval'), names))
    return [f for f in map(figure_of, shown) if f is not None]


@pytest.mark.slow
def test_figures_of_the_gallery_can_be_read(monkeypatch):
    monkeypatch.chdir(REPO / 'nbs')
    names, faults, n = {'__name__': 'gallery'}, {}, 0
    with matplotlib.rc_context():
        for cell, source in code_cells(REPO / 'nbs/gallery.ipynb'):
            for fig in run_cell(source, names):
                n += 1
                if found := figure_faults(fig):
                    faults[cell['id']] = found
    assert n > 25  # it did look
    assert faults == {}


def test_no_figure_asks_for_small_letters_or_more_than_the_page():
    sources = {p.name: p.read_text() for p in (REPO / 'satdino_nb').rglob('*.py')}
    sources |= {p.name: '\n'.join(s for _, s in code_cells(p)) for p in PAGES}
    sizes = [(n, float(x)) for n, text in sources.items() for x in SIZES.findall(text)]
    widths = [(n, float(x)) for n, text in sources.items() for x in WIDTHS.findall(text)]
    assert len(sizes) > 40 and len(widths) > 30
    assert [(n, x) for n, x in sizes if x < SMALL] == []
    assert [(n, x) for n, x in widths if x > PAGE] == []


@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.stem)
def test_a_page_has_the_look_of_the_course_and_no_wide_pictures(path):
    "By `use_style`, wherever matplotlib draws; no picture is much wider than its letters allow."
    cells = code_cells(path)
    source = '\n'.join(s for _, s in cells)
    assert 'set_matplotlib_formats' not in source and 'rcParams' not in source
    if re.search(r'plt\.subplots|Figure\(|_figure\(', source) and path.stem != 'diagrams':
        assert 'use_style(' in source
    for cell, _ in cells:
        for out in cell.get('outputs', []):
            for kind in ('image/png', 'image/jpeg'):
                if data := out.get('data', {}).get(kind):
                    picture = Image.open(io.BytesIO(base64.b64decode(''.join(data))))
                    dpi = picture.info.get('dpi', (100, 100))[0]
                    wide = picture.width / dpi
                    assert wide < PAGE + 0.4 or path.stem in WIDER, cell['id']
