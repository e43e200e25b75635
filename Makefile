PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test lint types notebooks clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/lightcrl demo

# Two workers, each with whole files: a file's models and data are made once.
test: install lint types
	$(BIN)/pytest -n 2 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# Executes the notebooks and writes their outputs into them.
notebooks: install
	$(BIN)/python tests/notebooks.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
