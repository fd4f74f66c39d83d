"""Who stands on whom.

Modules import only those of earlier notebooks, in no circle; and the script that measures it.
"""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / 'bench'))
from house import floors, imports_of, listed_names, package_numbers  # noqa: E402


def notebook_of(module):
    "The notebook that a module is exported from, as its first lines say."
    path = REPO / 'satdino_nb' / f'{module.replace(".", "/")}.py'
    found = re.search(r'File to edit: \S*nbs/(\S+\.ipynb)', path.read_text())
    return found and found[1]


def order(notebook):
    "Place of a notebook in the course: its number; what stands behind a lesson before the lesson."
    number, part = re.match(r'(\d+)_(\d+)?', Path(notebook).name).groups()
    return int(number), int(part) if part else 99, not notebook.startswith('engine/')


def test_modules_import_only_earlier_notebooks():
    imports = imports_of(REPO / 'satdino_nb')
    assert len(imports) > 15 and sum(map(len, imports.values())) > 30  # it did look
    for module, below in imports.items():
        for other in below:
            assert order(notebook_of(other)) <= order(notebook_of(module)), (
                f'{module} imports {other}, of a later notebook'
            )


def test_no_circle_and_circles_are_seen():
    level = floors(imports_of(REPO / 'satdino_nb'))
    assert level['engine.lengths'] == 0 and level['evaluate'] == max(level.values())
    with pytest.raises(ValueError, match='circle.*a, b'):
        floors({'a': {'b'}, 'b': {'a'}, 'c': set()})


def prints(text):
    "Names of the functions of a module's text that print, '' for the module itself."
    tree = ast.parse(text)
    owner = {}
    for f in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
        owner |= dict.fromkeys(ast.walk(f), f.name)  # the innermost comes last
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    return {
        owner.get(c, '')
        for c in calls
        if ast.unparse(c.func) == 'print'
        or ast.unparse(c.func).endswith(('.print', 'stdout.write', 'stderr.write'))
    }


def test_only_command_lines_print():
    "Everything else reports by `logging`, which a caller can turn off or send to a file."
    texts = {p.name: p.read_text() for p in (REPO / 'satdino_nb').rglob('*.py')}
    found = {f'{name}: {f}' for name, text in texts.items() for f in prints(text)}
    assert found >= {'pretrain.py: main', 'evaluate.py: main'}  # it did look
    assert [f for f in found if not re.search(r': (main|\w+_command)$', f)] == []


def test_prints_are_seen():
    text = """
print(1)
def f():
    "print(2) in a docstring is none."
    def inner(): accelerator.print(3)
    return inner
class A:
    def g(self): sys.stdout.write('4')
def h(x): return footprint(x), logger.info('print(5)')
"""
    assert prints(text) == {'', 'inner', 'g'}


def test_lessons_list_what_a_user_types():
    "Each name once, importable, and not many; a room's names are for other rooms."
    names = listed_names(REPO / 'satdino_nb')
    every = [name for module in names.values() for name in module]
    assert 60 < len(every) <= 140, 'does a user type the new ones?'
    twice = {name for name in every if every.count(name) > 1}
    assert twice <= {'extract_features'}, twice
    assert not [name for name in every if name.startswith('_') or name in ('main', 'logger')]


STANDING = """gsd.crop_gsd gsd.file_gsd scenes.render scenes.SceneDataset data.Tile
data.folder_tiles data.audit views.ViewConfig views.scale_segments views.MultiCrop vit.load_satdino
attention.last_attention dino.DINOLoss dino.DINOHead dino.cosine_schedule pretrain.PretrainConfig
pretrain.pretrain evaluate.knn_predict evaluate.extract_features evaluate.evaluate""".split()
# no longer listed, since few type them, and importable from where they were
PASSED_ON = """attention.Attention attention.attention_figure attention.heads_figure
attention.layers_figure attention.scales_figure classify.features_at data.Batch data.ImageReadError
data.NORMALISATIONS data.as_uint8 data.cache_tiles data.check_images data.contact_sheet
data.read_mask data.same_place data.table_tiles embed.Map embed.colour_map_figure
embed.gsd_map_figure embed.map_figure embed.map_quality embed.scale_path_figure embed.scale_spread
embed.spread_figure embed.tsne_map evaluate.Answer evaluate.Outcome evaluate.open_model
explorer.estimate_gsd explorer.network_input intervals.Estimate intervals.Spread
patches.colours_figure patches.matches_figure patches.patch_figure patches.patch_pca
patches.segments_figure pretrain.plot_run pretrain.read_config readout.readout_table
segment.LinearSegmenter segment.PyramidSegmenter segment.segment_table""".split()


def test_names_stay_where_they_are():
    for name in STANDING + PASSED_ON:
        module, _, name = name.rpartition('.')
        assert hasattr(importlib.import_module(f'satdino_nb.{module}'), name), (module, name)


def test_help_of_what_a_user_types_teaches():
    "Each argument, or field of a dataclass, by name, and an example."
    for module, names in listed_names(REPO / 'satdino_nb').items():
        for name in names:
            it = getattr(importlib.import_module(f'satdino_nb.{module}'), name)
            if not (inspect.isfunction(it) or inspect.isclass(it)):
                continue  # a value, such as FMOW
            doc = inspect.getdoc(it)
            lacking = [
                a for a in inspect.signature(it).parameters if not re.search(rf'\b{a}\b', doc)
            ]
            assert not lacking, f'help({name}) says nothing of {lacking}'
            assert re.search(rf'{name}\(|^>>> |^ {{4}}\S', doc, re.M), f'help({name}): no example'


def test_numbers_are_what_they_say(tmp_path):
    package = tmp_path / 'toy'
    package.mkdir()
    (package / 'a.py').write_text(
        'x, y = 1, 2\ndef f(a:int, b):\n    "Two words."\n    return a\n'
        'def g(): return 1\n' + '#' + '-' * 130 + '\n'
    )
    (package / 'b.py').write_text('def h():\n    from .a import f\n    return f\n')
    found = package_numbers(package)
    assert found['lines of code'] == '9' and found['parameters with a type'] == '50.0 %'
    assert (
        found['lines over 120 characters'] == '11.1 %'
        and found['public names with a docstring'] == '33.3 %'
    )
    assert imports_of(package) == {'a': set(), 'b': {'a'}}  # also inside of functions


@pytest.mark.slow
def test_script_runs():
    script = [sys.executable, str(REPO / 'bench' / 'house.py')]
    out = subprocess.run(script, capture_output=True, text=True, timeout=600, check=True).stdout
    assert '| lessons | |' in out and 'lines over 100 characters' in out
