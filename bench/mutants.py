"""Mutants: how many small faults, put into the package on purpose, its tests find.

    python bench/mutants.py --functions 10 --seed 0 --out bench/results/mutants.json
    python bench/mutants.py --functions 10 --seed 0 --list      # only shows the mutants
    python bench/mutants.py --module gsd --module engine.room   # functions of these alone

draws functions of the package by the seed and makes two mutants of each: a comparison turned
round, a number changed, an arithmetic operator swapped, or a returned value dropped. A mutant is
written into a temporary copy of the repository, both into the module and into the cell of the
notebook that it is exported from, since a notebook's tests run against its own cells. Then run, up
to the first failure, the tests of that notebook and the quick pytest files that import the module
(or a lesson of the same number that passes its names on). A mutant that no test fails for has
survived: either a test is missing or the mutant means the same as the original.

Each test is first run on the copy without a mutant; one that fails there is not asked, and a mutant
that no other test kills is undecided. Texts, annotations, arguments of `raise` and f-strings are
left alone, as they are words for people. Libraries for mutants know modules and pytest but not
notebooks, so this is a script.
"""

import argparse
import ast
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from pathlib import Path

from house import REPO, imports_of, sources

PACKAGE = 'satdino_nb'
FLIPPED = {
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
SWAPPED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
}
WORDS = (ast.Raise, ast.JoinedStr, ast.FunctionDef, ast.ClassDef)  # not gone into
LOADED = re.compile(r'^# %% (\S+\.ipynb) #(\S+)$', re.M)  # what nbdev writes above a cell


@dataclass(frozen=True)
class Mutant:
    "A fault in one function: `before` becomes `after` on `line` of the module."

    module: str  # within the package, such as 'engine.room'
    function: str
    kind: str  # 'comparison', 'number', 'operator', 'return'
    line: int
    before: str
    after: str
    start: int  # offsets in the module's text
    end: int
    notebook: str  # relative to the repository
    cell: str


def parts(function: ast.FunctionDef) -> Iterator[ast.AST]:
    "The nodes of a function's body that may be changed."
    todo = list(function.body)
    while todo:
        node = todo.pop(0)
        if isinstance(node, WORDS):
            continue
        yield node
        todo += [
            child
            for name, child in ((n, c) for n, v in ast.iter_fields(node) for c in flat(v))
            if name not in ('annotation', 'returns', 'decorator_list')
        ]


def flat(value) -> list[ast.AST]:
    "The nodes in a field of a node."
    return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, ast.AST)]


def change(node: ast.AST) -> tuple[str, ast.AST] | None:
    "`(kind, the node changed)`, or None for a node that is left as it is."
    if isinstance(node, ast.Compare) and type(node.ops[0]) in FLIPPED:
        ops = [FLIPPED[type(node.ops[0])](), *node.ops[1:]]
        return 'comparison', ast.Compare(node.left, ops, node.comparators)
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPPED:
        return 'operator', ast.BinOp(node.left, SWAPPED[type(node.op)](), node.right)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return 'number', ast.Constant(not node.value)
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return 'number', ast.Constant(node.value + 1)
    if isinstance(node, ast.Return) and not empty(node.value):
        return 'return', ast.Return(ast.Constant(None))
    return None


def empty(value: ast.expr | None) -> bool:
    "Whether a `return` gives None as it stands."
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def offsets(text: str) -> list[int]:
    "Where each line of `text` begins, in bytes, as `ast` counts columns."
    return [0, *accumulate(len(line) + 1 for line in text.encode().split(b'\n'))]


def mutants_of(module: str, text: str) -> dict[str, list[Mutant]]:
    "All mutants of the functions of a module, by the function's name (with that of its class)."
    begins, raw, found = offsets(text), text.encode(), {}
    cells = [(text.count('\n', 0, m.start()) + 1, m[1], m[2]) for m in LOADED.finditer(text)]
    tree = ast.parse(text)
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef)]
    owners = [('', tree), *((f'{c.name}.', c) for c in classes)]
    for owner, place in owners:
        for f in (n for n in place.body if isinstance(n, ast.FunctionDef)):
            name = owner + f.name
            for node in parts(f):
                if not (new := change(node)):
                    continue
                start = begins[node.lineno - 1] + node.col_offset
                end = begins[node.end_lineno - 1] + node.end_col_offset
                above = [c for c in cells if c[0] < node.lineno]
                if not above:
                    continue
                _, notebook, cell = above[-1]
                after = ast.unparse(new[1])
                found.setdefault(name, []).append(
                    Mutant(
                        module,
                        name,
                        new[0],
                        node.lineno,
                        raw[start:end].decode(),
                        after if new[0] == 'return' else f'({after})',
                        start,
                        end,
                        'nbs/' + re.sub(r'^(\.\./)+nbs/', '', notebook),
                        cell,
                    )
                )
    return found


def draw(repo: Path, functions: int, seed: int, modules: list[str] | None = None) -> list[Mutant]:
    "Two mutants, of two kinds where there are, of each of `functions` functions drawn by `seed`."
    folder, places = repo / PACKAGE, {}
    for path, text in sources(folder).items():
        module = '.'.join(path.relative_to(folder).with_suffix('').parts)
        if modules is None or module in modules:
            places |= {(module, f): m for f, m in mutants_of(module, text).items() if len(m) > 1}
    rng, drawn = random.Random(seed), []
    for key in rng.sample(sorted(places), min(functions, len(places))):
        first = rng.choice(places[key])
        left = [m for m in places[key] if m != first]
        drawn += [first, rng.choice([m for m in left if m.kind != first.kind] or left)]
    return drawn


def copy_of(repo: Path, folder: Path) -> Path:
    "A copy of the repository's files, those that git ignores left out."
    listed = ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
    names = subprocess.run(listed, cwd=repo, capture_output=True, check=True, text=True).stdout
    for name in filter(None, names.split('\0')):
        if (repo / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repo / name, folder / name)
    return folder


def changed(text: str, m: Mutant) -> tuple[str, str, str]:
    "`(the module's text with the mutant, the lines it is in before, and after)`."
    raw = text.encode()
    begin = raw.rfind(b'\n', 0, m.start) + 1
    end = raw.find(b'\n', m.end)
    after = raw[: m.start] + m.after.encode() + raw[m.end :]
    grown = len(after) - len(raw)
    return after.decode(), raw[begin:end].decode(), after[begin : end + grown].decode()


def put(m: Mutant, copy: Path) -> dict[Path, str]:
    "Write a mutant into the module and its notebook's cell; the texts of both as they were."
    path = copy.joinpath(PACKAGE, *m.module.split('.')).with_suffix('.py')
    notebook = copy / m.notebook
    kept = {p: p.read_text(encoding='utf-8') for p in (path, notebook)}
    text, before, after = changed(kept[path], m)
    ahead = kept[path].encode()[: m.start].decode()
    below = ahead[ahead.rfind('\n# %% ') :]
    turn = below[: below.rfind('\n') + 1].count(before)  # the same lines may stand in a cell before
    book = json.loads(kept[notebook])
    (cell,) = (c for c in book['cells'] if c['id'] == m.cell)
    source = ''.join(cell['source']).split(before)
    if len(source) < turn + 2:
        raise ValueError(f'{m.notebook}: cell {m.cell} lacks {before!r}; run nbdev_export')
    source = before.join(source[: turn + 1]) + after + before.join(source[turn + 1 :])
    cell['source'] = source.splitlines(keepends=True)
    path.write_text(text, encoding='utf-8')
    notebook.write_text(json.dumps(book), encoding='utf-8')
    return kept


def number_of(notebook: str) -> str:
    "The number in a notebook's name, '07_5' of 'nbs/07_5_readout.ipynb'."
    return re.match(r'(?:\d+_)*', Path(notebook).name)[0].rstrip('_')


def test_files(m: Mutant, repo: Path) -> list[str]:
    """The pytest files that import a mutant's module, or one of the same number that imports it.

    Those that import the module itself come first: as the first failure decides, it comes sooner.
    """
    imports = imports_of(repo / PACKAGE)
    names = [m.module]
    for name, below in imports.items():
        text = repo.joinpath(PACKAGE, *name.split('.')).with_suffix('.py').read_text('utf-8')
        books = {number_of(c[1]) for c in LOADED.finditer(text)}
        if m.module in below and books == {number_of(m.notebook)}:
            names.append(name)
    wanted = re.compile(rf'\b{PACKAGE}\.({"|".join(map(re.escape, names))})\b')
    itself = re.compile(rf'\b{PACKAGE}\.{re.escape(m.module)}\b')
    paths = sorted((repo / 'tests').glob('test_*.py'))
    texts = {f'tests/{p.name}': p.read_text(encoding='utf-8') for p in paths}
    tests = [name for name, text in texts.items() if wanted.search(text)]
    return sorted(tests, key=lambda name: not itself.search(texts[name]))


def commands(m: Mutant, copy: Path) -> dict[str, list[str]]:
    "The command lines that test a mutant's module, the notebook's first."
    script = shutil.which('nbdev_test', path=Path(sys.executable).parent) or 'nbdev_test'
    found = dict(notebook=[script, '--path', m.notebook, '--n_workers', '0'])
    if files := test_files(m, copy):
        options = ['-x', '-q', '-m', 'not slow', '-p', 'no:cacheprovider']
        found['pytest'] = [sys.executable, '-m', 'pytest', *options, *files]
    return found


def failure(command: list[str], copy: Path, timeout: float) -> str | None:
    "How a command fails in `copy` ('fails', 'takes too long'), or None."
    shared = os.environ.get('SATDINO_SHARED', str(REPO.parent / 'shared'))
    env = os.environ | dict(PYTHONPATH=str(copy), SATDINO_SHARED=shared, TQDM_DISABLE='1')
    env |= dict(OMP_NUM_THREADS='1', PYTHONDONTWRITEBYTECODE='1')
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    done = subprocess.Popen(command, cwd=copy, env=env, start_new_session=True, **quiet)
    try:
        code = done.wait(timeout)
    except subprocess.TimeoutExpired:
        return 'takes too long'
    finally:
        end_group(done)
    nothing = 'pytest' in command and code == 5  # no test was chosen
    return 'fails' if code and not nothing else None


def end_group(done: subprocess.Popen) -> None:
    "End a process and those that it started, such as a loader's."
    if hasattr(os, 'killpg'):
        with suppress(ProcessLookupError):
            os.killpg(done.pid, signal.SIGKILL)
    done.kill()
    done.wait()


def mutated(m: Mutant, command: list[str], copy: Path, timeout: float) -> str | None:
    "`failure` with the mutant in place."
    kept = put(m, copy)
    try:
        return failure(command, copy, timeout)
    finally:
        for path, text in kept.items():
            path.write_text(text, encoding='utf-8')


def line_of(row: dict) -> str:
    "The mutant of a row in a line."
    return line(Mutant(**{f.name: row[f.name] for f in fields(Mutant)}))


def line(m: Mutant) -> str:
    "A mutant in a line."
    before, after = (' '.join(t.split()) for t in (m.before, m.after))
    return f'{m.module}.py:{m.line} {m.function}, {m.kind}: {before} -> {after}'


def judge(drawn: list[Mutant], timeout: float, known: dict[str, dict]) -> Iterator[dict]:
    """What became of each mutant, a row of its facts.

    `killed_by` is the test that fails for it, None where it survived; `unsound` are tests that were
    not asked since they fail without a mutant too. `known`: rows of an earlier call, by `line`.
    """
    plain = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_of(REPO, Path(folder))
        for m in drawn:
            if line(m) in known:
                yield known[line(m)]
                continue
            start, killed_by, unsound = time.perf_counter(), None, []
            for name, command in commands(m, copy).items():
                if (m.module, name) not in plain:
                    plain[m.module, name] = failure(command, copy, timeout)
                if how := plain[m.module, name]:
                    unsound.append(f'{name} {how}')
                elif how := mutated(m, command, copy, timeout):
                    killed_by = f'{name} {how}'
                    break
            seconds = round(time.perf_counter() - start, 1)
            row = dict(killed_by=killed_by, unsound=unsound, seconds=seconds)
            print(f'{verdict(row)}: {line(m)}', flush=True)
            yield asdict(m) | row


def report_of(rows: list[dict], settings: dict) -> dict:
    "Shares and survivors of the rows so far."
    said = [verdict(r).split()[0] for r in rows]
    killed, tried = said.count('killed'), len(said) - said.count('undecided')
    share = killed / tried if tried else None
    survivors = [line_of(r) for r, word in zip(rows, said) if word == 'survived']
    found = dict(settings=settings, tried=tried, killed=killed, share=share)
    return found | dict(survivors=survivors, mutants=rows)


def verdict(row: dict) -> str:
    "'killed', 'survived', or 'undecided' where tests could not be asked, with the reason."
    if row['killed_by']:
        return f'killed ({row["killed_by"]})'
    if row['unsound']:
        return f'undecided (without it, {", ".join(row["unsound"])})'
    return 'survived'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--functions', type=int, default=10, help='two mutants of each')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--module', action='append', help='draw from these modules alone')
    parser.add_argument('--timeout', type=float, default=600, help='seconds for each of two tests')
    parser.add_argument('--list', action='store_true', help='only show the mutants')
    parser.add_argument('--out', type=Path, help='JSON, written at each; given again, it goes on')
    args = parser.parse_args()
    drawn = draw(REPO, args.functions, args.seed, args.module)
    if not drawn:
        parser.error(f'no functions to change in {", ".join(args.module or [PACKAGE])}')
    if args.list:
        print('\n'.join(map(line, drawn)))
        return
    settings = dict(functions=args.functions, seed=args.seed, module=args.module)
    known = {}
    if args.out and args.out.is_file():
        known = {line_of(row): row for row in json.loads(args.out.read_text())['mutants']}
    rows = []
    for row in judge(drawn, args.timeout, known):
        rows.append(row)
        if args.out:
            text = json.dumps(report_of(rows, settings), indent=1)
            args.out.write_text(text + '\n', encoding='utf-8')
    found = report_of(rows, settings)
    undecided = len(rows) - found['tried']
    print(f'{found["killed"]} of {found["tried"]} mutants killed, {undecided} undecided')


if __name__ == '__main__':
    main()
