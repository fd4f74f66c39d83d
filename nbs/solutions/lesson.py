"What a lesson defines, for solutions that go on from it."

import ast
import json
from pathlib import Path
from types import ModuleType

DEFINITIONS = ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef


def defines(node):
    "Whether a statement imports, defines, or names a constant."
    return isinstance(node, DEFINITIONS) or (
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    )


def lesson(name):
    """Imports, functions, classes and constants of the lesson `name`, as a module.

    A function that is set on the module is the one that the lesson's other functions call.
    """
    path = Path(__file__).resolve().parents[1] / f'{name}.ipynb'
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    module = ModuleType(name)
    for cell in cells:
        if cell['cell_type'] == 'code':
            tree = ast.parse(''.join(cell['source']))
            tree.body = [node for node in tree.body if defines(node)]
            exec(compile(tree, name, 'exec'), module.__dict__)
    return module
