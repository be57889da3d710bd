# Every target does what set-up is still missing: a fresh clone needs nothing but Python 3.11 or later and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
TESTS ?= tests

.PHONY: quickstart test check setup format clean

quickstart: $(VENV)/.run
	$(BIN)/thinkling quickstart

setup: $(VENV)/.dev

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing thinkling and what it needs (about two minutes the first time) ..."
	$(INSTALL) --editable .
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(INSTALL) --editable '.[test]'
	touch $@

$(VENV)/.dev: $(VENV)/.test
	$(INSTALL) --editable '.[test,dev]'
	touch $@

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(TESTS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(MAKE) --no-print-directory test

format: $(VENV)/.dev
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache
