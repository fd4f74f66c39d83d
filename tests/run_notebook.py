"""`nbdev_test` of one notebook; the figures that it shows must be readable, too.

python tests/run_notebook.py nbs/03_views.ipynb
"""

import sys
from pathlib import Path
from unittest import mock

from IPython.core import pylabtools
from nbdev.test import nbdev_test

from satdino_nb.engine.figures import figure_faults

# lessons and experiments, which are read on a page; rooms draw what their tests need
ON_A_PAGE = ('nbs', 'experiments')


def run_notebook(path):
    "Run all cells, which exits where one fails; what hinders reading their figures (sentences)."
    faults, draw = [], pylabtools.print_figure

    def looked_at(fig, *args, **options):
        faults.extend(f for f in figure_faults(fig) if f not in faults)
        return draw(fig, *args, **options)

    with mock.patch.object(pylabtools, 'print_figure', looked_at):
        nbdev_test(path=path.resolve(), n_workers=0)
    return faults if path.resolve().parent.name in ON_A_PAGE else []


if __name__ == '__main__':
    faults = run_notebook(Path(sys.argv[1]))
    for fault in faults:
        print(f'{sys.argv[1]}: a figure: {fault}', file=sys.stderr)
    sys.exit(bool(faults))
