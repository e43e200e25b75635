PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# One environment, two stamps: what the demo needs, and all that the tests need.
DEMO := $(VENV)/.demo
DEV := $(VENV)/.dev
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: install demo test suite test-lowest lint types notebooks docs clean

install: $(DEV)

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# Byte code is made where it is first used: a fifth of the disk otherwise.
$(DEMO): pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) --no-compile -e '.[demo]'
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) -e '.[dev]'
	@touch $@

demo: $(DEMO)
	$(BIN)/lightcrl demo

# Types are checked beside the tests: mypy fills one core for half a minute.
test: install lint
	@$(MAKE) --no-print-directory --jobs=2 types suite

# Workers with whole files each: a file's models and data are made once. One more than two cores need, since a fifth of the
# time is waiting, for browsers, servers and Ray. Tests start some hundred programs, and none should compile the sources again.
suite: export PYTHONDONTWRITEBYTECODE =
suite: install
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# Executes the notebooks and writes their outputs into them.
notebooks: install
	$(BIN)/python tests/notebooks.py

# The site of docs/, in site/; a warning stops it.
docs: install
	$(BIN)/zensical build --clean --strict

# The suite with the lowest versions that pyproject.toml admits, in an environment of its own. Old packages beside new
# ones warn about each other, so that warnings are no errors there.
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct -e '.[dev]'
	.venv-lowest/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder -W default

clean:
	rm -rf $(VENV) .venv-lowest build dist site .mypy_cache .ruff_cache .pytest_cache
