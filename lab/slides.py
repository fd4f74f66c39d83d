"""Slides of the lessons: one page each, for the arrow keys, that asks no network.

    python lab/slides.py                    # all lessons, into docs/_build/slides
    python lab/slides.py --lesson 05        # one of them

Cells tagged `slide` become slides, in their order. Of a notebook without such cells every section
does: its heading, its first words, its formulas and its first figure.
"""

import argparse
import base64
import html
import json
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from nbconvert.filters.markdown_mistune import markdown2html_mistune

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / 'docs'))
sys.path.insert(0, str(REPO / 'lab'))
from build import alt_text, in_order, mathematics, numbered, shown_code  # noqa: E402
from student import lessons, named  # noqa: E402

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<link rel="stylesheet" href="reveal/reset.css"><link rel="stylesheet" href="reveal/reveal.css">
<link rel="stylesheet" href="reveal/theme/white.css">
<style>
.reveal {{ font-size: 30px; }} .reveal h1 {{ font-size: 1.8em; }} .reveal h2 {{ font-size: 1.4em; }}
.reveal h1, .reveal h2, .reveal h3 {{ text-transform: none; }}
.reveal section img {{ max-height: 52vh; max-width: 100%; margin: 0.3em auto; }}
.reveal pre {{ font-size: 0.5em; width: 100%; white-space: pre-wrap; }}
.reveal table {{ font-size: 0.7em; }} .anchor-link {{ display: none; }}
</style>
<script>window.MathJax = {{ tex: {{ inlineMath: [['$', '$']] }} }};</script>
<script src="tex-svg.js"></script></head>
<body><div class="reveal"><div class="slides">
{slides}
</div></div>
<script src="reveal/reveal.js"></script>
<script>Reveal.initialize({{ hash: true, width: 1280, height: 720, margin: 0.05 }});</script>
</body></html>
"""


def inline_picture(found):
    "The picture that a lesson shows, `![words](path)`, with its bytes in it."
    words, name = found.groups()
    path = REPO / 'nbs' / name
    kind = 'svg+xml' if path.suffix == '.svg' else path.suffix.lstrip('.').replace('jpg', 'jpeg')
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(words, quote=True)}" src="data:image/{kind};base64,{data}">'


def text_html(text):
    "Markdown as HTML; links to other notebooks become their words, and pictures are carried along."
    text = re.sub(r'!\[([^\]]*)\]\((?!https?:)([^)]*)\)', inline_picture, text)
    return markdown2html_mistune(re.sub(r'\[([^\]]*)\]\((?!https?:)[^)]*\)', r'\1', text))


def pictures(cell, alt):
    "The pictures that a code cell drew, as HTML with their bytes in it."
    made = []
    for out in cell.get('outputs', []):
        for kind in ('image/jpeg', 'image/png'):
            if data := out.get('data', {}).get(kind):
                data = ''.join(data).replace('\n', '')
                words = html.escape(alt_text(''.join(cell['source']), alt), quote=True)
                made.append(f'<img alt="{words}" src="data:{kind};base64,{data}">')
                break
    return made


def printed(cell):
    "What a code cell printed, as HTML."
    outs = cell.get('outputs', [])
    text = ''.join(''.join(o.get('text', '')) for o in outs if o['output_type'] == 'stream')
    return [f'<pre>{html.escape(text)}</pre>'] if text.strip() else []


def tagged_slides(cells):
    "A slide of each cell that is tagged `slide`."
    for cell in cells:
        if 'slide' not in cell.get('metadata', {}).get('tags', []):
            continue
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            yield text_html(source)
        else:
            code = f'<pre>{html.escape(shown_code(source))}</pre>'
            yield '\n'.join([code, *printed(cell), *pictures(cell, 'Figure')])


def parts_of(cells):
    "Sections of a notebook: `(heading with its marks, text below it, code cells)`."
    parts = []
    for cell in cells:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'code':
            if parts:
                parts[-1][2].append(cell)
            continue
        for piece in re.split(r'^(?=#{1,2} )', source, flags=re.M):
            heading, _, rest = piece.partition('\n')
            if re.match(r'#{1,2} ', heading):
                parts.append((heading, [rest], []))
            elif parts:
                parts[-1][1].append(piece)
    return [(heading, '\n\n'.join(text), code) for heading, text, code in parts]


def section_slides(cells):
    "A slide of each section: heading, first words, up to two formulas, the first figure."
    for heading, text, code in parts_of(cells):
        formulas = re.findall(r'\$\$.+?\$\$', text, re.S)
        lists = heading.endswith(('Summary', 'Exercises'))
        words = re.sub(r'\$\$.+?\$\$|```.+?```', '', text, flags=re.S)
        blocks = [b.strip() for b in words.split('\n\n') if b.strip()]
        shown = '\n\n'.join(blocks if lists else blocks[:1])
        drawn = [p for c in code for p in pictures(c, f'Figure: {heading.lstrip("# ")}')]
        yield '\n'.join([text_html('\n\n'.join([heading, shown, *formulas[:2]])), *drawn[:1]])


def deck(path):
    "The page of slides of the notebook at `path`, HTML."
    cells = json.loads((REPO / path).read_text())['cells']
    slides = list(tagged_slides(cells)) or list(section_slides(cells))
    body = '\n'.join(f'<section>\n{s}\n</section>' for s in slides)
    return PAGE.format(title=html.escape(numbered(path)), slides=body)


def machinery(out):
    "Copy reveal.js and MathJax, which come in packages, to the folder `out`."
    place = find_spec('sphinx_revealjs')
    if place is None:
        raise SystemExit("slides need the extra: python -m pip install -e '.[docs]'")
    dist = Path(place.submodule_search_locations[0]) / '_static/revealjs/dist'
    shutil.rmtree(out / 'reveal', ignore_errors=True)
    for name in ('reset.css', 'reveal.css', 'reveal.js', 'theme/white.css'):
        (out / 'reveal' / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(dist / name, out / 'reveal' / name)
    fonts = 'theme/fonts/source-sans-pro'  # what the white theme asks for; others ask the network
    shutil.copytree(dist / fonts, out / 'reveal' / fonts)
    shutil.copy(mathematics(), out)


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=REPO / 'docs/_build/slides')
    parser.add_argument('--lesson', help='05, 07.1 or 05_dino; all where it is not given')
    given = parser.parse_args(args)
    numbers = [p for p in lessons() if re.match(r'\d', p.name)]
    chosen = [named(given.lesson)] if given.lesson else in_order(numbers)
    given.out.mkdir(parents=True, exist_ok=True)
    machinery(given.out)
    for path in chosen:
        (given.out / f'{path.stem}.html').write_text(deck(path))
    links = [f'<li><a href="{p.stem}.html">{html.escape(numbered(p))}</a></li>' for p in chosen]
    page = '<!doctype html><meta charset="utf-8"><title>Slides</title><h1>Slides</h1>'
    (given.out / 'index.html').write_text(f'{page}<ul>{"".join(links)}</ul>')
    print(given.out / 'index.html')


if __name__ == '__main__':
    main()
