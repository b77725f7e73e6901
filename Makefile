# Everything a developer does here. `make help` lists it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
ROUNDS ?= 100
JOBS ?= 3
DURATION ?= 86400
SCALE ?= 1000000
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install up test lint explore faults soak mutants bench bench-peers docs wheel lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[36m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/.installed ## Make .venv with everything pinned

.venv/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing pinned packages (about a minute, the database engine is large) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

up: install ## Start everything: stores, ingest, worker, API (Ctrl-C ends it)
	@$(BIN)/tracebility up $(ARGS)

test: lint ## Every test on real stores, after the lint; files side by side, JOBS=3 (they wait more than they compute)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: install ## ruff, mypy strict, import rules
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

explore: install ## New examples for every property and model, many more than in `test`
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --hypothesis-profile explore --timeout 3600 -m hypothesis $(ARGS)

faults: install ## Random kill -9 under load: ROUNDS=100, a seed is printed
	@$(BIN)/python -m pytest tests/faults -q -s --rounds $(ROUNDS) -k random $(ARGS)

soak: install ## Kills, partitions and resends at once, then every org's numbers: DURATION=86400
	@$(BIN)/python -m pytest tests/faults -q -s --soak-s $(DURATION) -k at_once $(ARGS)

mutants: install ## Break the product on purpose, one way at a time: which test turns red
	@$(BIN)/python -m tests.mutants $(ARGS)

bench: install ## Benchmarks as ratios against references of the same run: SCALE=1000000
	@$(BIN)/python -m benchmarks --scale $(SCALE) $(ARGS)

bench-peers: install ## The same load against peers, in an environment of their own
	@$(BIN)/python -m benchmarks.peers $(ARGS)

docs: install ## Build the documentation site into site/
	@$(BIN)/zensical build

wheel: install ## Build the wheel into dist/
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist .

lock: ## Pin every dependency again, from pyproject.toml
	@$(BIN)/uv pip compile pyproject.toml --group dev --generate-hashes --universal --python-version 3.11 \
		--no-emit-index-url --no-annotate --no-header --output-file requirements.lock --quiet

clean: ## Remove what was built, caches and the environment; data directories stay
	@rm -rf .venv dist build site .bench .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
