"""The site: notebooks with their committed outputs, guides, and the reference, as HTML.

    python docs/build.py            # docs/_build/html/index.html

The pages are laid out as the repository is, so that a link means the same on both. Nothing is run,
imported or fetched; a warning is an error. The explorer's page is made of `docs/explorer.json`,
which `docs/explorer.py` writes.
"""

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path

DOCS = Path(__file__).resolve().parent
REPO = DOCS.parent
GUIDES = ('CONTRIBUTING.md', 'CHANGELOG.md', 'bench/README.md', 'data_samples/README.md')
PAGES = (*GUIDES, 'data_samples/models/README.md')
FIGURES = Path('nbs/figures')  # diagrams that pages show
LINK = re.compile(r'(?<!`)(!?\[[^\]\n]*\]\()([^)\s]+)(\))')


def notebooks():
    "Paths of all notebooks but solutions and the table of answers, from the repository's root."
    found = [p.relative_to(REPO) for p in sorted((REPO / 'nbs').rglob('*.ipynb'))]
    hidden = {'.ipynb_checkpoints', 'solutions', '00_answers.ipynb'}  # out of a student's way
    return [p for p in found if not hidden & set(p.parts)]


def settings():
    "The section of settings.ini that says names and version."
    config = ConfigParser()
    config.read(REPO / 'settings.ini')
    return config['DEFAULT']


def turn_links(text, page, pages, online):
    """`text` of `page`, its links to files that are no pages turned to the repository online.

    - `pages`: paths that the site has; `online`: address of the repository's files.
    """

    def turned(found):
        target, _, anchor = found[2].partition('#')
        if not target or re.match(r'[a-z]+:', target):
            return found[0]
        path = Path(os.path.normpath(page.parent / target))
        if path in pages or path.parent == FIGURES and (REPO / path).exists():
            return found[0]
        if not (REPO / path).exists():
            raise SystemExit(f'{page}: the link {found[2]} leads nowhere; repair it there')
        return f'{found[1]}{online}/{path}{"#" * bool(anchor)}{anchor}{found[3]}'

    return LINK.sub(turned, text)


def shown_code(source):
    "A code cell as a reader sees it: without directives of nbdev; '' if it is to be hidden."
    lines = source.splitlines()
    if any(re.match(r'#\|\s*hide\b', line) for line in lines):
        return ''
    return '\n'.join(line for line in lines if not line.startswith('#|')).strip('\n')


def alt_text(source, heading):
    "What a cell's `#| fig-alt:` says of its pictures; without one, the heading that it is under."
    said = re.search(r'^#\| fig-alt: (.+)$', source, re.M)
    return said[1] if said else f'Figure: {heading}'.replace('`', '')


def page_of_notebook(path, pages, online):
    "The notebook at `path` for the site, a dict: links turned, directives gone, pictures named."
    notebook = json.loads((REPO / path).read_text())
    heading, cells = path.stem, []
    for cell in notebook['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            heading = ([heading] + re.findall(r'^#+ (.+)$', source, re.M))[-1]
            source = turn_links(source, path, pages, online)
        elif cell['cell_type'] == 'code':
            alt = alt_text(source, heading)
            source = shown_code(source)
            cell['metadata'] = {**cell['metadata'], 'mystnb': {'image': {'alt': alt}}}
        if source:
            cells.append({**cell, 'source': source})
    return {**notebook, 'cells': cells}


def title_of(path):
    "First heading of a notebook or a page of Markdown."
    text = (REPO / path).read_text()
    if path.suffix == '.ipynb':
        text = ''.join(json.loads(text)['cells'][0]['source'])
    return re.search(r'^# (.+)$', text, re.M)[1]


def numbered(path):
    "Title of a notebook after its number: `07.1 How sure are we?`."
    number = re.match(r'(\d+)(?:_(\d+))?_', path.name)
    return (
        f'{".".join(filter(None, number.groups()))} {title_of(path)}' if number else title_of(path)
    )


def lesson_table():
    "The table of lessons as the index notebook has it, Markdown."
    cells = json.loads((REPO / 'nbs/index.ipynb').read_text())['cells']
    text = '\n\n'.join(''.join(c['source']) for c in cells)
    return re.search(r'^\| lesson \|.*\n(?:\|.*\n?)+', text, re.M)[0]


def in_order(paths):
    "Lessons in the order of the index's table; what it does not name comes last."
    rows = re.findall(r'^\| \[[^\]]*\]\(([^)]+)\)', lesson_table(), re.M)
    place = {f'nbs/{name}': i for i, name in enumerate(rows)}
    return sorted(paths, key=lambda p: (place.get(p.as_posix(), len(place)), p))


def toctree(caption, entries):
    "A part of the site's contents; `entries` are `(title, path)`."
    lines = [f'{title} <{Path(path).with_suffix("").as_posix()}>' for title, path in entries]
    return '\n'.join(['```{toctree}', ':hidden:', f':caption: {caption}', '', *lines, '```', ''])


def definitions(module):
    "Nodes of what a module defines at its top, by name, and where it takes other names from."
    path = REPO / 'satdino_nb' / f'{module.replace(".", "/")}.py'
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    own = {n.name: n for n in tree.body if isinstance(n, kinds)}
    own |= {
        t.id: n
        for n in tree.body
        if isinstance(n, (ast.Assign, ast.AnnAssign))
        for t in (n.targets if isinstance(n, ast.Assign) else [n.target])
        if isinstance(t, ast.Name)
    }
    taken = {}
    for n in (n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)):
        source = (n.module or '').removeprefix('satdino_nb.')
        if n.level or (n.module or '').startswith('satdino_nb'):
            source = f'engine.{source}' if n.level and module.startswith('engine.') else source
            taken |= {a.asname or a.name: (source, a.name) for a in n.names}
    return tree, own, taken


def listed(tree):
    "`__all__` of a module's tree."
    for n in tree.body:
        if isinstance(n, ast.Assign) and getattr(n.targets[0], 'id', '') == '__all__':
            return ast.literal_eval(n.value)
    return []


def found(name, module):
    "Node of a name that `module` defines or passes on."
    for _ in range(5):
        _, own, taken = definitions(module)
        if name in own:
            return own[name]
        module, name = taken[name]
    raise SystemExit(f'{module}: {name} is passed on in a circle')


def signature(node):
    "Arguments and result of a function, as they are written."
    args = ast.unparse(node.args).removeprefix('self').removeprefix(', ')
    returns = f' -> {ast.unparse(node.returns)}' if node.returns else ''
    return f'({args}){returns}'


def directive(kind, head, body, colons=3):
    "A description of a name; `colons` says how deep others nest in it."
    fence = ':' * colons
    return f'{fence}{{py:{kind}}} {head}\n\n{body}\n{fence}\n'


def doc_of(node):
    "A docstring, '' where there is none."
    return ast.get_docstring(node) or ''


def described(name, node):
    "A listed name as the reference shows it: signature, docstring, and methods of a class."
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        value = ast.unparse(node.value)
        return directive('data', name, f'`{value}`' if len(value) < 300 else '')
    if not isinstance(node, ast.ClassDef):
        return directive('function', f'{name}{signature(node)}', doc_of(node))
    fields = [
        f'- `{ast.unparse(n)}`'
        for n in node.body
        if isinstance(n, ast.AnnAssign) and not n.target.id.startswith('_')
    ]
    body = [doc_of(node)]
    if fields:
        body.append('Fields:\n\n' + '\n'.join(fields))
    for n in node.body:
        if isinstance(n, ast.FunctionDef) and not n.name.startswith('_') and ast.get_docstring(n):
            marks = {ast.unparse(d) for d in n.decorator_list}
            kind = 'property' if marks & {'property', 'cached_property'} else 'method'
            head = n.name if kind == 'property' else f'{n.name}{signature(n)}'
            body.append(directive(kind, head, doc_of(n)))
    return directive('class', name, '\n\n'.join(body), colons=4)


def reference(lesson):
    "Page of the reference for the module of a lesson, and the module's name; None if it has none."
    cells = json.loads((REPO / lesson).read_text())['cells']
    code = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'code')
    exported = re.search(r'^#\| default_exp (\w+)$', code, re.M)
    if not exported:
        return None
    tree, _, _ = definitions(exported[1])
    names = sorted(listed(tree), key=str.lower)
    parts = [described(n, found(n, exported[1])) for n in names]
    head = f'# `satdino_nb.{exported[1]}`\n\n{ast.get_docstring(tree) or ""}\n\n'
    text = f'{head}From the lesson [{title_of(lesson)}](../{lesson.as_posix()}).\n\n'
    return exported[
        1
    ], f'{text}```{{py:currentmodule}} satdino_nb.{exported[1]}\n```\n\n' + '\n'.join(parts)


def stage(source):
    "Write what Sphinx reads to the folder `source`, which is made anew."
    shutil.rmtree(source, ignore_errors=True)
    all_notebooks = notebooks()
    own = [p.relative_to(REPO) for p in sorted(DOCS.glob('*.md'))]
    drawn = [p.relative_to(REPO) for p in DOCS.glob('static/*.jpg')]
    pages = {*all_notebooks, *map(Path, PAGES), *own, *drawn}
    online = f'https://github.com/{settings()["user"]}/{settings()["repo"]}/blob/main'
    for path in all_notebooks:
        write(source / path, json.dumps(page_of_notebook(path, pages, online)))
    for path in [*map(Path, PAGES), *own]:
        text = re.sub(r'\A---\n.*?\n---\n', '', (REPO / path).read_text(), flags=re.S)
        write(source / path, turn_links(text, path, pages, online))
    lessons = in_order(p for p in all_notebooks if re.fullmatch(r'nbs/\d\w*\.ipynb', p.as_posix()))
    modules = {}
    for lesson in lessons:
        if made := reference(lesson):
            modules[made[0]] = f'reference/{made[0]}.md'
            write(source / modules[made[0]], made[1])
    rooms = [p for p in all_notebooks if p.parts[1] == 'engine']
    asked = [p for p in all_notebooks if p.parts[1] == 'experiments']
    other = [p for p in all_notebooks if p not in [*lessons, *rooms, *asked]]
    guides = [p for p in [*own, *map(Path, PAGES)] if p.name != 'index.md']
    parts = [
        toctree('The course', [(numbered(p), p) for p in lessons]),
        toctree('Start and gallery', [(title_of(p), p) for p in other]),
        toctree('Experiments', [(title_of(p), p) for p in asked]),
        toctree('Guides', [(title_of(p), p) for p in guides]),
        toctree('Reference', [(f'satdino_nb.{m}', path) for m, path in modules.items()]),
        toctree('Behind the lessons', [(numbered(p), p) for p in rooms]),
    ]
    front = (source / 'docs/index.md').read_text()
    (source / 'docs/index.md').unlink()
    table = re.sub(r'\]\((?=\d)', '](nbs/', lesson_table())
    front = front.replace('<!-- lessons -->', table)
    write(source / 'index.md', front.replace('](../', '](') + '\n' + '\n'.join(parts))
    shutil.copytree(DOCS / 'static', source / 'static')
    shutil.copytree(REPO / FIGURES, source / FIGURES)
    (source / 'docs/static').mkdir(parents=True, exist_ok=True)
    for path in drawn:
        shutil.move(source / 'static' / path.name, source / path)
    shutil.copy(DOCS / 'conf.py', source / 'conf.py')
    shutil.copy(mathematics(), source / 'static')


def mathematics():
    "MathJax as one file, from a package that carries it."
    place = find_spec('mathjax')
    if place is None:
        raise SystemExit("the site needs the extra: python -m pip install -e '.[docs]'")
    return Path(place.submodule_search_locations[0]) / 'static/mathjax/es5/tex-svg.js'


def explorer_page():
    "The text of the explorer's page: its data, and script and style as they are now."
    _, own, _ = definitions('engine.explorer_page')
    page, words = (ast.literal_eval(own[name].value) for name in ('PAGE', 'WORDS'))
    static = REPO / 'satdino_nb/engine/static'
    js = ''.join((static / name).read_text() for name in ('common.js', 'explorer.js'))
    css = (static / 'explorer.css').read_text()
    baked = (DOCS / 'explorer.json').read_text().strip().replace('<', '\\u003c')
    title = 'The same ground at every scale'
    return page.format(css=css, js=js, baked=baked, title=title, words=words)


def write(path, text):
    "Write `text`, with the folders above it."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=DOCS / '_build', help='folder of the site')
    out = parser.parse_args(args).out.resolve()
    stage(out / 'source')
    shutil.rmtree(out / 'html', ignore_errors=True)
    env = {**os.environ, 'SATDINO_VERSION': settings()['version']}
    command = [sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-b', 'html']
    command += ['-d', out / 'trees', out / 'source', out / 'html']
    done = subprocess.run(command, env=env)
    (out / 'html').mkdir(exist_ok=True)
    (out / 'html/.nojekyll').touch()
    write(out / 'html/explorer.html', explorer_page())
    if done.returncode == 0:
        print(f'{out / "html/index.html"}')
    return done.returncode


if __name__ == '__main__':
    sys.exit(main())
