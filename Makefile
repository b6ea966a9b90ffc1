# Each target sets up what it needs: a virtual environment in .venv, and the project in it.
#
#   make demo PYTHON=/path/to/python3                  with that Python, 3.11 or newer
#   make demo VENV_OPTIONS=--system-site-packages      with the PyTorch that this Python has already
#   make demo PIP_OPTIONS="--index-url ADDRESS"        with packages from there, such as PyTorch without CUDA

IS_NEW_ENOUGH := -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))'
ifndef PYTHON
PYTHON := $(shell for name in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$name $(IS_NEW_ENOUGH) 2>/dev/null && echo $$name && break; done)
endif
VENV ?= .venv
VENV_OPTIONS ?=
PIP_OPTIONS ?=
BIN := $(VENV)/bin
# Marks of what is installed already.
BASE := $(VENV)/.installed-base
DEV := $(VENV)/.installed-dev

.PHONY: demo test test-slow lint dist clean

demo: $(BASE)
	$(BIN)/python examples/demo.py

test: $(DEV)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test-slow: $(DEV)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/typos

# The wheel and the source archive of a release, checked; built from what is committed.
dist: $(DEV)
	@[ -z "$$(git status --porcelain)" ] || { echo "uncommitted changes: commit them first, since a release contains only what is committed" >&2; exit 1; }
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

# On Linux, most of it is PyTorch's CUDA libraries, which pip installs with PyTorch and the demo does not use.
$(BASE): pyproject.toml
	@$(check_python)
	@echo "Setting up $(VENV) with $(PYTHON). On Linux x86-64 about 3.1 GB of packages are downloaded, which take 5.8 GB; where"
	@echo "PyTorch comes without CUDA, some hundred MB. With the PyTorch that a Python has already, next to nothing:"
	@echo "make demo VENV_OPTIONS=--system-site-packages PYTHON=..."
	$(call install,.)
	touch $@

$(DEV): pyproject.toml
	@$(check_python)
	@echo "Setting up $(VENV) with $(PYTHON). On Linux x86-64 the packages take 7 GB, half of which is downloaded."
	$(call install,.[dev])
	touch $(BASE) $@

define check_python
[ -n "$(PYTHON)" ] && $(PYTHON) $(IS_NEW_ENOUGH) 2>/dev/null || { \
	echo "$(or $(PYTHON),python3) is missing, or is not Python 3.11 or newer with venv (on Debian and Ubuntu also the" >&2; \
	echo "package python3-venv): install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
endef

define install
$(PYTHON) -m venv $(VENV_OPTIONS) $(VENV)
$(BIN)/python -m pip install --quiet --upgrade pip
$(BIN)/python -m pip install $(PIP_OPTIONS) --editable "$(1)"
endef

clean:
	rm -rf $(VENV) build dist demo-output
