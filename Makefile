# Everything a developer does here. `make help` lists it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
ROUNDS ?= 100
JOBS ?= 3
DURATION ?= 86400
SCALE ?= 1000000
ARGS ?=
# uv does not read pip's settings: give it the index that pip is told to use, if it is told one.
INDEX = index=$${PIP_INDEX_URL:-$$($(PYTHON) -m pip config get global.index-url 2>/dev/null)}; test -z "$$index" || export UV_DEFAULT_INDEX="$$index"
UV_INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps
UV_COMPILE = $(BIN)/uv pip compile --quiet pyproject.toml --group build --generate-hashes --universal --python-version 3.11 \
	--no-emit-index-url --no-annotate --no-header
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist loadfile
# What the engine's own suite depends on; the digest of its last green run is kept beside it.
ENGINE_DIGEST = { find src/tracebility_engine tests/engine -name '*.py' | LC_ALL=C sort | xargs cat; grep '^chdb-core==' requirements.lock; } | sha256sum
ENGINE_TESTED = tests/engine/tested.sha256

.DEFAULT_GOAL := help
.PHONY: help install install-dev up check test test-all lint explore faults soak mutants bench bench-peers docs wheel lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[36m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/.installed ## Make .venv with what running needs, pinned

install-dev: .venv/.installed-dev ## Add what tests and benchmarks need, pinned

# pip installs only uv, by its hash in the lock; uv installs the rest several times faster.
.venv/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing pinned packages (some 15 s, the database engine is large) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv --without-pip .venv
	@awk '/^[^ ]/ {wanted = /^uv==/} wanted' requirements.lock > .venv/uv.txt
	@test -x $(BIN)/uv || { if $(PYTHON) -c 'import pip' 2>/dev/null; then pip="$(PYTHON) -m pip --python $(BIN)/python"; else $(BIN)/python -m ensurepip >/dev/null; pip="$(BIN)/python -m pip"; fi; \
		$$pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement .venv/uv.txt; }
	@$(INDEX); $(UV_INSTALL) --require-hashes --requirement requirements.lock && $(UV_INSTALL) --no-build-isolation --editable .
	@touch $@

.venv/.installed-dev: .venv/.installed requirements-dev.lock
	@echo "Installing what tests need ..."
	@$(INDEX); $(UV_INSTALL) --require-hashes --requirement requirements-dev.lock
	@touch $@

up: install ## Start everything: stores, ingest, worker, API (Ctrl-C ends it)
	@$(BIN)/tracebility up $(ARGS)

check: lint ## Lint and unit tests, with fewer examples for each property than `test` takes: for every commit
	@$(BIN)/python -m pytest -q -n 2 --hypothesis-profile quick tests/unit $(ARGS)

test: lint ## Every test on real stores, after the lint; the engine's own suite when its files changed. Files side by side, JOBS=3
	@if [ "$$($(ENGINE_DIGEST))" = "$$(cat $(ENGINE_TESTED))" ]; then \
		echo "tests/engine is not run: the engine is as it was when its suite was last green (make test-all runs it)"; \
		$(PYTEST) --durations=25 --ignore=tests/engine $(ARGS); \
	else $(PYTEST) --durations=25 $(ARGS); fi

test-all: lint ## Every test, the engine's own suite too; then commit tests/engine/tested.sha256
	@$(PYTEST) --durations=25
	@$(ENGINE_DIGEST) > $(ENGINE_TESTED)

lint: install-dev ## ruff, mypy strict, import rules
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

explore: install-dev ## New examples for every property and model, many more than in `test`
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --hypothesis-profile explore --timeout 3600 -m hypothesis $(ARGS)

faults: install-dev ## Random kill -9 under load: ROUNDS=100, a seed is printed
	@$(BIN)/python -m pytest tests/faults -q -s --rounds $(ROUNDS) -k random $(ARGS)

soak: install-dev ## Kills, partitions and resends at once, then every org's numbers: DURATION=86400
	@$(BIN)/python -m pytest tests/faults -q -s --soak-s $(DURATION) -k at_once $(ARGS)

mutants: install-dev ## Break the product on purpose, one way at a time: which test turns red
	@$(BIN)/python -m tests.mutants $(ARGS)

bench: install-dev ## Benchmarks as ratios against references of the same run: SCALE=1000000
	@$(BIN)/python -m benchmarks --scale $(SCALE) $(ARGS)

bench-peers: install-dev ## The same load against peers, in an environment of their own
	@$(BIN)/python -m benchmarks.peers $(ARGS)

docs: install-dev ## Build the documentation site into site/
	@$(BIN)/zensical build

wheel: install-dev ## Build the wheel into dist/
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist .

lock: install-dev ## Pin every dependency again, from pyproject.toml: what running needs, and what developing needs
	@$(INDEX); $(UV_COMPILE) --output-file requirements.lock && \
		$(UV_COMPILE) --group dev --constraint requirements.lock --output-file requirements-dev.lock

clean: ## Remove what was built, caches and the environment; data directories stay
	@rm -rf .venv dist build site .bench .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
