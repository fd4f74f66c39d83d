# make lab    JupyterLab at the course's index (ARGS="--no-browser --port 9999" is passed on)
# make test   package in sync with the notebooks, notebooks clean, notebooks run, pytest
# make lint   form and lint of notebooks, tests and benches
# make quick  pytest without its slow tests, under two minutes on two cores
# make student DIR=folder            a student's copy of the lessons, without solutions; nothing here changes with it
# make reset DIR=folder LESSON=03    a lesson of that copy as it was
# make slides  slides of the lessons, in docs/_build/slides (ARGS="--lesson 05": of one)
# make docs   the site, in docs/_build/html: no network, no notebook is run
# make venv   the environment alone, by uv where it is installed, else by pip (INSTALLER=pip or INSTALLER=uv decides);
#             an environment that is there already is kept, with what it holds
#             TORCH=cpu (also with `make lab`) takes PyTorch's build without CUDA, for machines without a GPU
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
# uv reads none of pip's configuration: where pip is told an index, links or constraints, pip installs
PIP_IS_TOLD = $(PYTHON) -m pip config list 2>/dev/null | grep -qE 'index|find-links|constraint'
INSTALLER ?= $(shell if ! $(PIP_IS_TOLD) && command -v uv >/dev/null; then echo uv; else echo pip; fi)
# the index that PyTorch's site names for a build: cpu, cu126 ...; without TORCH, what PyPI has
TORCH_INDEX ?= https://download.pytorch.org/whl/$(TORCH)
install-pip = $(BIN)/python -m pip install --quiet --disable-pip-version-check
install-uv = uv pip install --quiet --python $(BIN)/python
create-pip = $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
create-uv = test -x $(BIN)/python || uv venv --quiet --seed --allow-existing --python $(PYTHON) $(VENV)
# files of tests are shared out over two processes, as notebooks are; PYTEST=pytest runs them in one
PYTEST ?= pytest -n 2 --dist loadfile
NOTEBOOKS := $(wildcard nbs/*.ipynb nbs/*/*.ipynb)

.PHONY: venv lab test lint quick notebooks readme docs slides student reset
venv: $(VENV)/.installed

# `make lab` needs what the lessons import, everything else what tests and the site need besides
$(VENV)/.installed: EXTRA = dev
$(VENV)/.course: EXTRA = course
$(VENV)/.installed $(VENV)/.course: pyproject.toml
	$(if $(install-$(INSTALLER)),,$(error INSTALLER is pip or uv, not "$(INSTALLER)"))
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(create-$(INSTALLER))
	$(if $(TORCH),$(install-$(INSTALLER)) --index-url $(TORCH_INDEX) torch torchvision)
	$(install-$(INSTALLER)) -e '.[$(EXTRA)]'
	touch $@

# JupyterLab refuses to run as root unless told so, as in a container; lab/ says that it asks for no news or updates
lab: $(or $(wildcard $(VENV)/.installed),$(VENV)/.course)
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/nbs/index.ipynb --LabApp.app_settings_dir=lab \
	    $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

# every notebook by nbdev_test in a process of its own, two at a time; its figures must be readable, too
notebooks: venv
	printf '%s\n' $(NOTEBOOKS) | PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 TQDM_DISABLE=1 \
	    xargs -P 2 -I{} sh -c 'timeout 600 python tests/run_notebook.py {} && echo "passed {}" || { echo "FAILED {}"; exit 1; }'

test: venv
	status=0; $(MAKE) lint || status=1; $(MAKE) notebooks || status=1; $(BIN)/python -m $(PYTEST) || status=1; exit $$status

lint: venv
	$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet . && $(BIN)/mypy

quick: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m $(PYTEST) -m "not slow"

# README.md is the index notebook, its links turned from nbs/ to the repository root, its picture in docs/static
README ?= README.md
readme: venv
	$(BIN)/python lab/readme.py $(README)

docs: venv
	$(BIN)/python -c 'import sphinx, myst_nb, furo, mathjax' 2>/dev/null || $(install-$(INSTALLER)) -e '.[docs]'
	$(BIN)/python docs/build.py && $(BIN)/python docs/check.py docs/_build/html

slides: venv
	$(BIN)/python -c 'import sphinx_revealjs, mathjax' 2>/dev/null || $(install-$(INSTALLER)) -e '.[docs]'
	$(BIN)/python lab/slides.py $(ARGS)

student: venv
	$(BIN)/python lab/student.py copy "$(or $(DIR),$(error name a folder: make student DIR=../lessons))"

reset: venv
	$(BIN)/python lab/student.py reset "$(or $(DIR),$(error name the copy: make reset DIR=../lessons LESSON=03))" \
	    "$(or $(LESSON),$(error name a lesson: make reset DIR=$(DIR) LESSON=03))"
