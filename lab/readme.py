"""README.md is the index notebook, as Markdown, with links that work at the repository's root.

    python lab/readme.py README.md

The picture that the notebook's first cell draws is written to docs/static/learnt.jpg beside it.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

INDEX = Path(__file__).resolve().parents[1] / 'nbs' / 'index.ipynb'
PICTURE = 'docs/static/learnt.jpg'
ALT = (
    'Four scenes with a scale bar each, and below them their patches coloured by what the shipped '
    'network made of them'
)


def as_markdown(notebook: Path) -> tuple[str, bytes]:
    "A notebook as Markdown that names its one picture `PICTURE`, and that picture."
    text, resources = MarkdownExporter().from_notebook_node(nbformat.read(notebook, 4))
    (name, picture), *more = resources['outputs'].items()
    if more:
        raise ValueError(f'{notebook}: one picture is expected, {1 + len(more)} are there')
    text = re.sub(rf'!\[\w+\]\({re.escape(name)}\)', f'![{ALT}]({PICTURE})', text)
    text = text.replace('](../', '](')
    return re.sub(r'\]\(([a-z0-9_/]+\.(ipynb|svg))', r'](nbs/\1', text), picture


if __name__ == '__main__':
    readme = Path(sys.argv[1])
    said, drawn = as_markdown(INDEX)
    (readme.parent / PICTURE).parent.mkdir(parents=True, exist_ok=True)
    (readme.parent / PICTURE).write_bytes(drawn)
    readme.write_text(said.rstrip('\n') + '\n')
