"""One notebook from a clean kernel, as `nbdev_test` runs it; its figures must be readable, too.

python tests/run_notebook.py nbs/03_views.ipynb
"""

import sys
from pathlib import Path
from unittest import mock

from IPython.core import pylabtools
from nbdev.config import get_config
from nbdev.test import test_nb

from satdino_nb.engine.figures import figure_faults

# lessons and experiments, which are read on a page; rooms draw what their tests need
ON_A_PAGE = ('nbs', 'experiments')


def run_notebook(path):
    "Did every cell run, and what hinders reading the figures that they showed (sentences)."
    faults, draw = [], pylabtools.print_figure

    def looked_at(fig, *args, **options):
        faults.extend(f for f in figure_faults(fig) if f not in faults)
        return draw(fig, *args, **options)

    with mock.patch.object(pylabtools, 'print_figure', looked_at):
        ran, _ = test_nb(
            path.resolve(),
            skip_flags=get_config().tst_flags.split(),
            basepath=get_config().config_path,
        )
    return ran, faults if path.resolve().parent.name in ON_A_PAGE else []


if __name__ == '__main__':
    ran, faults = run_notebook(Path(sys.argv[1]))
    for fault in faults:
        print(f'{sys.argv[1]}: a figure: {fault}', file=sys.stderr)
    sys.exit(not ran or bool(faults))
