# make quickstart            the whole method on a synthetic sample, in minutes
# make quickstart IMAGES=dir pretraining on your own images, and a report of it
# make test                  the fast tests;  make test-slow  the others
# make lint                  ruff, codespell and mypy
# make docs                  the documentation, in docs/_build
#
# Each sets up what it needs: a .venv, or the environment given by VENV=dir or PYTHON=interpreter,
# whose torch, Detectron2 and OpenCV are kept.

VENV ?= .venv
BASE_PYTHON ?= python3
ifdef PYTHON
PY := $(PYTHON)
else
PY := $(VENV)/bin/python
endif
IMAGES ?=
OUTPUT ?= quickstart

.PHONY: setup quickstart test test-slow lint docs clean

setup: $(if $(PYTHON),,$(VENV)/bin/python)
	@$(PY) tools/setup_environment.py

$(VENV)/bin/python:
	$(BASE_PYTHON) -m venv $(VENV)

quickstart: setup
	$(PY) -m examples.quickstart --output $(OUTPUT) $(if $(IMAGES),--images "$(IMAGES)")

# A process a core, each with one thread; the tests of a file share what they set up.
test: setup
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow" -n auto --dist loadfile

test-slow: setup
	$(PY) -m pytest -m slow

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m codespell_lib
	$(PY) -m mypy

docs: setup
	$(PY) -m sphinx -q -W --keep-going -b html docs docs/_build

clean:
	rm -rf build docs/_build *.egg-info .pytest_cache .ruff_cache .mypy_cache quickstart
