# Everything runs in .venv, which is made from pyproject.toml and constraints.txt when it is
# missing or older than they are. `make PYTHON=python3.12 test` takes another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz check lint bench docs notebooks reproduction clean

help: ## Show these targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Making $(VENV) and installing into it: some minutes, most of them torch."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e ".[dev]"
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e ".[docs]"
	@touch $@

$(VENV)/.installed-notebooks: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e ".[notebooks]"
	@touch $@

demo: $(VENV)/.installed ## Mask 1 % of the filters of the blind super-resolution model, into demo-output
	$(BIN)/paramattr blindsr mask --pct 1 --out demo-output
	@echo "Look at the figures in demo-output. Next, your own photographs or your own models:"
	@echo "    $(BIN)/paramattr blindsr mask --pct 1 --images DIR --out RESULTS"
	@echo "    $(BIN)/paramattr diff BASE TUNED --data FILE.jsonl --out RESULTS"

test: $(VENV)/.installed ## Run the tests and doctests, the slow ones aside
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile

fuzz: $(VENV)/.installed ## Read thousands of hostile files: about an hour
	HYPOTHESIS_PROFILE=fuzz OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/test_hostile.py

lint: $(VENV)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --strict --follow-imports=silent tests/user_project
	$(BIN)/lint-imports
	$(BIN)/python tools/lengths.py paramattr examples/blind_sr benchmarks

check: lint test ## Check style, types and import directions, then run the tests

bench: $(VENV)/.installed ## Run the benchmarks that need nothing else; --list of python -m benchmarks names all
	$(BIN)/python -m benchmarks

docs: $(VENV)/.installed-docs ## Build the documentation into site
	$(BIN)/python -m mkdocs build --strict

notebooks: $(VENV)/.installed-notebooks ## Make notebooks from the pages and execute them
	OMP_NUM_THREADS=1 $(BIN)/python tools/notebooks.py

reproduction: $(VENV)/.installed ## Run the whole study into reproduce-output; ARGS="--images DIR ..."
	$(BIN)/paramattr blindsr reproduce --full $(ARGS)

clean: ## Remove what was built, cached and written; the environment stays
	rm -rf build dist site notebooks demo-output *.egg-info
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
