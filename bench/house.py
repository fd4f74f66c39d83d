"""The house in numbers.

How wide, how long and how well described the package and its notebooks are, and who imports whom.

    python bench/house.py                 # this repository
    python bench/house.py --graph         # modules by floor, and what each imports
    python bench/house.py --package PATH  # any other package's *.py, for comparison

No threshold is set here; the numbers are for comparing before with after, and with other
libraries.
"""

import argparse
import ast
import json
import re
import statistics
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
GENERATED = {'_modidx.py'}
COMPOUND = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.FunctionDef, ast.ClassDef)


def percent(part: int, whole: int) -> str:
    return f'{100 * part / max(whole, 1):.1f} %'


def sources(folder: Path) -> dict[Path, str]:
    "Python files below a folder, those that a tool generates left out."
    return {
        p: p.read_text(encoding='utf-8')
        for p in sorted(folder.rglob('*.py'))
        if p.name not in GENERATED
    }


def one_line(node: ast.AST) -> bool:
    "Whether a compound statement stands with its body on one line (`if x: return y`)."
    return isinstance(node, COMPOUND) and node.body[0].lineno == node.lineno


def package_numbers(folder: Path) -> dict[str, str]:
    "Figures of a package's code."
    files = sources(folder)
    lines = [line for text in files.values() for line in text.splitlines() if line.strip()]
    nodes = [n for text in files.values() for n in ast.walk(ast.parse(text))]
    functions = [n for n in nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    lengths = [n.end_lineno - n.lineno + 1 for n in functions]
    arguments = [
        a
        for f in functions
        for a in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs)
        if a.arg not in ('self', 'cls')
    ]
    public = [
        n
        for n in nodes
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith('_')
    ]
    docs = [len(d.split()) for n in public if (d := ast.get_docstring(n))]
    tuples = [
        n
        for n in nodes
        if isinstance(n, ast.Assign)
        and isinstance(n.targets[0], ast.Tuple)
        and isinstance(n.value, ast.Tuple)
    ]
    longest = max(files, key=lambda p: len(files[p].splitlines()))
    per = 1000 / max(len(lines), 1)
    return {
        'modules': str(len(files)),
        'lines of code': f'{len(lines):,}',
        'longest module': f'{longest.name}, {len(files[longest].splitlines()):,} lines',
        'lines over 100 characters': percent(sum(len(line) > 100 for line in lines), len(lines)),
        'lines over 120 characters': percent(sum(len(line) > 120 for line in lines), len(lines)),
        'one-line compounds per 1,000 lines': f'{per * sum(map(one_line, nodes)):.0f}',
        'tuple assignments per 1,000 lines': f'{per * len(tuples):.1f}',
        'lines of a function, median / longest': (
            f'{statistics.median(lengths):.0f} / {max(lengths)}'
        ),
        'parameters with a type': percent(
            sum(a.annotation is not None for a in arguments), len(arguments)
        ),
        'public names with a docstring': percent(len(docs), len(public)),
        'words of a docstring, median': f'{statistics.median(docs):.0f}' if docs else '-',
        'names in `__all__` of its own modules': str(sum(map(len, listed_names(folder).values()))),
    }


def listed_names(folder: Path) -> dict[str, list[str]]:
    "Module: the names in its `__all__`, of the modules right in a package, not those below it."
    found = {}
    for path in (p for p in sources(folder) if p.parent == folder):
        for n in ast.parse(path.read_text(encoding='utf-8')).body:
            if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == '__all__':
                found[path.stem] = [e.value for e in n.value.elts]
    return found


def cells_of(path: Path) -> list[tuple[str, str]]:
    "`(type, source)` of the cells of a notebook."
    return [
        (c['cell_type'], ''.join(c['source']))
        for c in json.loads(path.read_text(encoding='utf-8'))['cells']
    ]


def notebook_numbers(paths: list[Path]) -> dict[str, str]:
    "Figures of notebooks."
    cells = [c for p in paths for c in cells_of(p)]
    code, prose = ([s for kind, s in cells if kind == want] for want in ('code', 'markdown'))
    lines = [line for s in code for line in s.splitlines() if line.strip()]
    exported = [s for s in code if s.startswith('#| export')]
    return {
        'notebooks': str(len(paths)),
        'code cells': str(len(code)),
        'exported cells': str(len(exported)),
        'lines of a code cell, median': (
            f'{statistics.median(len(s.splitlines()) for s in code):.0f}'
        ),
        'characters of a code cell, median': f'{statistics.median(map(len, code)):.0f}',
        'prose cells per code cell': f'{len(prose) / len(code):.2f}',
        'lines over 100 characters': percent(sum(len(line) > 100 for line in lines), len(lines)),
        'equations': str(sum(len(re.findall(r'\$[^$]+\$', s)) for s in prose)),
        'largest, kB': f'{max(p.stat().st_size for p in paths) / 1000:.0f}',
    }


def imports_of(folder: Path) -> dict[str, set[str]]:
    "Module: the modules of the same package that it imports, also inside of functions."
    names = {'.'.join(p.relative_to(folder).with_suffix('').parts): p for p in sources(folder)}
    found = {}
    for name, path in names.items():
        package, here = folder.name, name.split('.')
        targets = set()
        for n in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(n, ast.ImportFrom) and n.level:
                base = here[: len(here) - n.level] + (n.module.split('.') if n.module else [])
                targets |= {'.'.join(base), *('.'.join([*base, a.name]) for a in n.names)}
            elif isinstance(n, ast.ImportFrom) and (n.module or '').startswith(f'{package}.'):
                targets.add(n.module.removeprefix(f'{package}.'))
        found[name] = {t for t in targets if t in names and t != name}
    return found


def floors(imports: dict[str, set[str]]) -> dict[str, int]:
    """Floor of each module: 0 for one that imports no other.

    Else one above the highest that it imports; `ValueError` for a circle.
    """
    level, left = {}, dict(imports)
    while left:
        ready = [m for m, below in left.items() if all(b in level for b in below)]
        if not ready:
            raise ValueError(
                f'modules that import each other in a circle are among {", ".join(sorted(left))}'
            )
        for m in ready:
            level[m] = 1 + max((level[b] for b in left.pop(m)), default=-1)
    return level


def show(title: str, numbers: dict[str, str]) -> None:
    print(f'| {title} | |\n|---|---|')
    print('\n'.join(f'| {name} | {value} |' for name, value in numbers.items()), end='\n\n')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--package', type=Path, default=REPO / 'satdino_nb')
    parser.add_argument('--graph', action='store_true', help='modules by floor')
    args = parser.parse_args()
    if not args.package.is_dir() or not sources(args.package):
        parser.error(f'{args.package}: no folder of Python files')
    if args.graph:
        imports = imports_of(args.package)
        level = floors(imports)
        for m in sorted(level, key=lambda m: (level[m], m)):
            print(f'{level[m]}  {m:24} {", ".join(sorted(imports[m]))}')
        return
    show(args.package.name, package_numbers(args.package))
    if args.package == REPO / 'satdino_nb':
        nbs = REPO / 'nbs'
        show('lessons', notebook_numbers(sorted(nbs.glob('[0-9]*.ipynb'))))
        show('all notebooks', notebook_numbers(sorted(nbs.rglob('*.ipynb'))))


if __name__ == '__main__':
    main()
