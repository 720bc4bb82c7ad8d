# One environment (.venv) serves every target; a second small one (.venv-arviz1) lets the tests check ArviZ 1.x,
# which needs Python 3.12, next to the ArviZ 0.x of Python 3.11. Stamp files make a second run quick and offline.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help venv venv-arviz1 demo test test-slow test-py tutorials docs docs-test lint clean

# A version manager may put a command on the PATH that does not run: so each candidate is tried, not looked up.
RUNS_311 := -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do "$$p" $(RUNS_311) && echo "$$p" && break; done)

VENV := .venv
VENV_ARVIZ1 := .venv-arviz1
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check -c constraints.txt

# A stamp holds the folder it was made in: an environment that was copied or moved with its tree is set up again,
# since its scripts and its editable install still point to the old folder.
STAMPS := $(VENV)/.installed $(VENV)/.installed-dev $(VENV)/.installed-notebooks $(VENV)/.installed-docs $(VENV_ARVIZ1)/.installed
$(shell for s in $(STAMPS); do if [ -f "$$s" ] && [ "$$(cat "$$s")" != "$$PWD" ]; then rm "$$s"; fi; done)

help:  ## list the targets
	@awk -F ':.*##  *' '/^[a-z0-9-]+:.*##/ {printf "make %-12s %s\n", $$1, $$2}' Makefile

venv: $(VENV)/.installed  ## create .venv with the package and what its tests need

$(VENV)/.installed: pyproject.toml constraints.txt
	@"$(PYTHON)" $(RUNS_311) || { \
		echo "pyrozoo needs Python 3.11 or newer, and found '$(PYTHON)'. Name one: make PYTHON=/path/to/python3.11" >&2; \
		exit 1; }
	@echo "Setting up $(VENV) (once; takes a few minutes) ..."
	@"$(PYTHON)" -m venv $(VENV)
	@$(VENV)/bin/python $(PIP_INSTALL) -e '.[test]'
	@echo "$$PWD" > $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(VENV)/bin/python $(PIP_INSTALL) -e '.[dev]'
	@echo "$$PWD" > $@

$(VENV)/.installed-notebooks: $(VENV)/.installed
	@$(VENV)/bin/python $(PIP_INSTALL) -e '.[notebooks]'
	@echo "$$PWD" > $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@$(VENV)/bin/python $(PIP_INSTALL) -e '.[docs]'
	@echo "$$PWD" > $@

# Not needed for anything but some tests of the ArviZ bridge: where it cannot be had, one line says so and make goes on.
venv-arviz1: $(VENV_ARVIZ1)/.installed

$(VENV_ARVIZ1)/.installed: constraints.txt
	@python=; \
	for p in python3.12 python3.13 "$$(pyenv root 2>/dev/null)"/versions/3.1[2-9]*/bin/python; do \
		if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then python="$$p"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "No Python 3.12 or newer was found: the tests of ArviZ 1.x are skipped."; \
	elif echo "Setting up $(VENV_ARVIZ1) (once) ..." && "$$python" -m venv $(VENV_ARVIZ1) && $(VENV_ARVIZ1)/bin/python \
		$(PIP_INSTALL) arviz numpy pandas xarray h5netcdf h5py matplotlib pytest; then \
		echo "$$PWD" > $@; \
	else \
		echo "ArviZ 1.x could not be installed: its tests are skipped."; \
	fi

demo: venv  ## fit the first entry to real data, and report on it: results/ssmtl-dryer
	$(VENV)/bin/pyrozoo reproduce ssmtl dryer --profile quick --jobs 2 --out results/ssmtl-dryer

# Without bytecode every worker would rewrite and compile every test anew: half of the time of a collection.
PYTEST = if [ -f $(VENV_ARVIZ1)/.installed ]; then export PYROZOO_ARVIZ1_PYTHON="$$PWD/$(VENV_ARVIZ1)/bin/python"; fi; \
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses auto --dist worksteal --durations 30

test: venv venv-arviz1  ## run the default test suite
	@$(PYTEST)

test-slow: venv venv-arviz1  ## run the slow tests (calibration, recovery at length)
	@$(PYTEST) -m slow

# An environment of its own for another Python, with its own torch (a download of GBs) and, from 3.12 on, ArviZ 1.x:
#     make test-py PYTHON=python3.13
# runs the whole suite, the slow tests and with them every tutorial included, and prints the versions before it.
VENV_PY = .venv-py$(shell "$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

test-py:  ## run all tests, slow ones and tutorials included, with another Python (PYTHON=python3.13)
	@"$(PYTHON)" $(RUNS_311) || { echo "Name a Python from 3.11 on: make test-py PYTHON=python3.13" >&2; exit 1; }
	@if [ "$$(cat "$(VENV_PY)/.installed" 2>/dev/null)" != "$$PWD" ]; then \
		"$(PYTHON)" -m venv "$(VENV_PY)" && "$(VENV_PY)/bin/python" $(PIP_INSTALL) -e '.[test]' && \
		echo "$$PWD" > "$(VENV_PY)/.installed"; \
	fi
	@"$(VENV_PY)/bin/python" -c 'import sys; from importlib.metadata import version; \
		print("Python", sys.version.split()[0], *(f"{name} {version(name)}" for name in ("torch", "pyro-ppl", "arviz")))'
	@PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 "$(VENV_PY)/bin/python" -m pytest --numprocesses auto --dist worksteal \
		-m "slow or not slow" --durations 10

tutorials: $(VENV)/.installed-notebooks  ## run the tutorials in full, write their notebooks (NAME=00_quickstart: one)
	@$(VENV)/bin/python tutorials/execute.py $(NAME)

docs: $(VENV)/.installed-docs  ## build the documentation site: docs/_build/html/index.html
	@PYTHONDONTWRITEBYTECODE= $(VENV)/bin/python -m sphinx -q -W --keep-going -b html -c docs . docs/_build/html
	@echo "docs/_build/html/index.html"

docs-test: docs  ## check the built site in a browser (Debian: chromium, chromium-driver)
	@$(VENV)/bin/python -m pytest -q -m site tests/test_site.py

lint: $(VENV)/.installed-dev  ## check style, types and who imports whom
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

clean:  ## remove environments, builds and caches (results stay)
	@rm -rf $(VENV) $(VENV_ARVIZ1) .venv-py* docs/_build docs/_gallery build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
