"""A copy of the lessons for a student, and a lesson of it as it was.

    python lab/student.py copy FOLDER          # make student DIR=FOLDER
    python lab/student.py reset FOLDER 07.1    # make reset DIR=FOLDER LESSON=07.1

The copy imports the installed package: what is changed in it changes nothing here. Cells carry no
directives, outputs are left out (`--outputs` keeps them), and solutions are not copied.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / 'docs'))
from build import settings, shown_code, turn_links  # noqa: E402

MARK = '.satdino-lessons'  # a file that says: this folder is a copy
README = """# Lessons

Open `nbs/index.ipynb` in JupyterLab, from this folder:

    jupyter lab nbs/index.ipynb

The kernel's environment needs the package: `python -m pip install 'REPO[lab]'`.
Change what you like. A lesson as it was: `make reset DIR=FOLDER LESSON=03` in the repository; your
version of it is kept in `kept/`.
"""


def lessons():
    "Paths of the notebooks that a student gets, from the repository's root."
    found = [*REPO.glob('nbs/*.ipynb'), *REPO.glob('nbs/experiments/*.ipynb')]
    return sorted(p.relative_to(REPO) for p in found if 'solution' not in p.name.lower())


def students(path, outputs=False):
    "The notebook at `path` as a student gets it, a dict; `outputs`: with what it printed and drew."
    notebook = json.loads((REPO / path).read_text())
    beside = [*REPO.glob('data_samples/**/*.md'), *REPO.glob('docs/static/*.jpg')]
    here = {*lessons(), *(p.relative_to(REPO) for p in beside)}
    address = f'https://github.com/{settings()["user"]}/{settings()["repo"]}/blob/main'
    cells = []
    for cell in notebook['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'code':
            source = shown_code(re.sub(r'^#\|\s*hide\b.*\n?', '', source, flags=re.M))
            if not outputs:
                cell = {**cell, 'outputs': [], 'execution_count': None}
        elif cell['cell_type'] == 'markdown':
            source = turn_links(source, path, here, address)
        if source:
            cells.append({**cell, 'source': source.splitlines(keepends=True)})
    return {**notebook, 'cells': cells}


def write_lesson(folder, path, outputs):
    "Put one notebook into the copy at `folder`."
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(students(path, outputs), indent=1, ensure_ascii=False) + '\n')


def copy(folder, outputs=False):
    """Make a copy of the lessons, and of what they read, in the new or empty `folder`.

    `SystemExit` with a word on what to do, if it lies in the repository or holds something.
    """
    folder = Path(folder).resolve()
    if folder.is_relative_to(REPO):
        raise SystemExit(f'{folder} is in the repository; name a folder outside {REPO}')
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SystemExit(f'{folder} is not empty; name a new folder, or reset a lesson of a copy')
    for path in lessons():
        write_lesson(folder, path, outputs)
    for name in ('data_samples', 'bench/results', 'nbs/figures'):
        shutil.copytree(REPO / name, folder / name)
    shutil.copytree(REPO / 'docs/static', folder / 'docs/static')
    for path in REPO.glob('nbs/experiments/*.toml'):
        shutil.copy(path, folder / 'nbs/experiments')
    text = README.replace('REPO', str(REPO)).replace('FOLDER', str(folder))
    (folder / 'README.md').write_text(text)
    (folder / MARK).write_text(f'{settings()["version"]}\n')
    print(f'{len(lessons())} notebooks in {folder}; its README.md says how to open them')


def named(lesson):
    "Path of the notebook that `lesson` names: `03`, `07.1`, `03_views` or a file's name."
    stem = Path(lesson).name.removesuffix('.ipynb').replace('.', '_')
    number = rf'{stem}_[a-z]\w*' if re.fullmatch(r'\d+(_\d+)?', stem) else re.escape(stem)
    found = [p for p in lessons() if re.fullmatch(number, p.stem)]
    if len(found) != 1:
        names = ', '.join(p.stem for p in lessons())
        raise SystemExit(f'no lesson {lesson!r}; there are {names}')
    return found[0]


def reset(folder, lesson, outputs=False):
    "Put a lesson of the copy at `folder` back; what stood there is kept in `kept/`."
    folder = Path(folder).resolve()
    if not (folder / MARK).is_file():
        raise SystemExit(f'{folder} is no copy of the lessons; make student DIR={folder} makes one')
    path = named(lesson)
    if (folder / path).exists():
        kept = folder / 'kept'
        kept.mkdir(exist_ok=True)
        n = 1 + len(list(kept.glob(f'{path.stem}-*.ipynb')))
        shutil.move(folder / path, kept / f'{path.stem}-{n}.ipynb')
        print(f'yours is kept as {kept / f"{path.stem}-{n}.ipynb"}')
    write_lesson(folder, path, outputs)
    print(f'{folder / path} is as it was')


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--outputs', action='store_true', help='keep what notebooks printed')
    deeds = parser.add_subparsers(dest='deed', required=True)
    deeds.add_parser('copy', help='make a copy').add_argument('folder')
    again = deeds.add_parser('reset', help='a lesson as it was')
    again.add_argument('folder')
    again.add_argument('lesson', help='03, 07.1 or 03_views')
    given = parser.parse_args(args)
    if given.deed == 'copy':
        copy(given.folder, given.outputs)
    else:
        reset(given.folder, given.lesson, given.outputs)


if __name__ == '__main__':
    main()
