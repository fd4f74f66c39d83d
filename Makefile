# make lab    JupyterLab at the course's index (ARGS="--no-browser --port 9999" is passed on)
# make test   package in sync with the notebooks, notebooks clean, notebooks run, pytest
# make quick  pytest without its slow tests: a couple of minutes
# make venv   the environment alone
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
NOTEBOOKS := $(wildcard nbs/*.ipynb nbs/*/*.ipynb)

.PHONY: venv lab test quick notebooks readme
venv: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# JupyterLab refuses to run as root unless told so, as in a container
lab: venv
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/nbs/index.ipynb $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

# every notebook in a process of its own, two at a time
notebooks: venv
	printf '%s\n' $(NOTEBOOKS) | PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 TQDM_DISABLE=1 \
	    xargs -P 2 -I{} sh -c 'timeout 600 nbdev_test --path {} --n_workers 0 && echo "passed {}" || { echo "FAILED {}"; exit 1; }'

test: venv
	status=0; $(MAKE) notebooks || status=1; $(BIN)/python -m pytest || status=1; exit $$status

quick: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow"

# README.md is the index notebook, its links turned from nbs/ to the repository root
README ?= README.md
readme: venv
	$(BIN)/jupyter nbconvert --log-level ERROR --to markdown --stdout nbs/index.ipynb \
	    | sed -E 's#\]\(\.\./#](#g; s#\]\(([a-z0-9_/]+\.ipynb)#](nbs/\1#g' > $(README)
