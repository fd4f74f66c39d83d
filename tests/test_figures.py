"Figures: one look, letters that can be read, nothing cut, legends off the data."

import ast
import base64
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import nbformat
import pytest
from matplotlib.artist import Artist
from matplotlib.colors import CSS4_COLORS
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
# numbers of colours, as matplotlib and Pillow read them
NUMBERED = re.compile(r'#[0-9a-fA-F]{3,8}|C\d|(tab|xkcd):.+')
NEUTRAL = {'black', 'white', 'grey', 'gray', 'k', 'w', '#ffffff'}
# names of bands, too, which are no colours of a figure unless an option says so
BANDS = {'red', 'green', 'blue', 'cyan', 'magenta', 'yellow'}
OPTION = re.compile(r'.*colou?rs?|m?[ef]c|c|m[ef]c|fill|outline|foreground', re.I)
OWN_COLOURS = {'figures', '00_figures'}  # the room that has them


def code_cells(path):
    "Code cells of a notebook with their sources as text."
    cells = json.loads(path.read_text())['cells']
    return [(c, ''.join(c['source'])) for c in cells if c['cell_type'] == 'code']


def colour_literals(source):
    "Colours in Python source that are neither black, white nor grey, each with its line."
    named = (set(CSS4_COLORS) | set('rgbcmy')) - NEUTRAL
    nodes = list(ast.walk(ast.parse(source)))
    options = [
        k.value for k in nodes if isinstance(k, ast.keyword) and OPTION.fullmatch(k.arg or '')
    ]
    of_options = {id(value) for option in options for value in ast.walk(option)}
    words = [n for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return [
        (n.lineno, n.value)
        for n in words
        if n.value not in NEUTRAL
        if NUMBERED.fullmatch(n.value)
        or (n.value in named and (id(n) in of_options or n.value not in BANDS | set('rgbcmy')))
    ]


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


def test_a_colour_is_found_in_source_and_a_band_is_none():
    for said in ("c='r'", "color='red'", "x='#0072B2'", "x='C1'", "x='tab:blue'", "x='crimson'"):
        assert len(colour_literals(f'f({said})')) == 1, said
    assert len(colour_literals("f(edgecolors=['red', 'blue'])")) == 2
    none = "f(color='black', fc='white', x='red', mode='r', c=BLUE)  # '#0072B2'"
    assert colour_literals(none) == []


def test_colours_have_their_names_from_the_room_of_figures():
    sources = {p.stem: [p.read_text()] for p in (REPO / 'satdino_nb').rglob('*.py')}
    for path in (REPO / 'nbs').rglob('*.ipynb'):
        cells = [re.sub(r'^[%!].*', '', s, flags=re.M) for _, s in code_cells(path)]
        sources[f'{path.parent.name}/{path.stem}'] = cells
    assert len(sources) > 200  # it did look
    found = {
        name: said
        for name, texts in sources.items()
        if name.rsplit('/')[-1] not in OWN_COLOURS
        if (said := [c for text in texts for c in colour_literals(text)])
    }
    assert found == {}, 'take the names of satdino_nb.engine.figures'


@pytest.mark.slow
def test_a_notebook_that_shows_an_unreadable_figure_fails(tmp_path):
    "What `make notebooks` runs: cells fail, or their figures do."
    pages = {}
    for name, size in (('good', 9), ('small', 5)):
        book = nbformat.v4.new_notebook()
        words = f"fig.text(0.5, 0.5, 'words', size={size})"
        code = ('from matplotlib.figure import Figure', 'fig = Figure()', words, 'fig')
        book.cells = [nbformat.v4.new_code_cell('\n'.join(code))]
        (tmp_path / 'nbs').mkdir(exist_ok=True)
        pages[name] = tmp_path / 'nbs' / f'{name}.ipynb'
        nbformat.write(book, pages[name])
    run = [sys.executable, REPO / 'tests/run_notebook.py']
    said = {n: subprocess.run([*run, p], capture_output=True, text=True) for n, p in pages.items()}
    assert said['good'].returncode == 0, said['good'].stderr
    assert said['small'].returncode == 1
    assert "'words' has 5 points, less than 8" in said['small'].stderr


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
