# Everything a developer does here. `make demo` and `make test` need Python 3.11 or newer, and nothing else.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test check lint format types docs bench soak clean

demo: $(INSTALLED) ## A small bank on an SQLite file
	$(BIN)/python examples/bank.py

test: $(INSTALLED) ## All tests, those of the docs included
	$(BIN)/pytest

check: lint types test ## What CI runs

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED)
	$(BIN)/mypy

docs: $(INSTALLED) ## Run the code blocks of README.md and docs/
	$(BIN)/pytest README.md docs

soak: $(INSTALLED) ## The randomized tests for long: SOAK_MINUTES each, new seeds every time
	SOAK_MINUTES=$(or $(SOAK_MINUTES),10) $(BIN)/pytest tests/crash tests/concurrency \
	  tests/stores/test_machine.py tests/process/test_simulation.py tests/process/test_process_kill.py \
	  --timeout=0 -s

bench: $(INSTALLED) ## Measure against the raw engine and peers, and write bench/RESULTS.md
	$(BIN)/pip install --quiet -e '.[bench]'
	$(BIN)/python -m bench

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("leftfold needs Python 3.11 or newer; set PYTHON=python3.x") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
