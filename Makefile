# Every target below with a description is listed by `make help`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin
export PATH := $(CURDIR)/.venv-tools/bin:$(PATH)
export UV_PYTHON_DOWNLOADS := never

# Options of `farthing up`, for example: make up ARGS="--detach --port-offset 100"
ARGS ?=

# Tests that can share the machine run on every core; a file stays in one process, where its fixtures are made once.
SHARED := --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder
# What takes long is said at the end, so that a gate that grows can be looked at.
SLOWEST := --durations 25 --durations-min 5

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: bootstrap
bootstrap: ## Install what is missing: uv, the Python environment, Debian packages
	@tools/bootstrap.sh dev

.PHONY: up
up: ## Start the stack; Ctrl-C stops it (options of `farthing up` in ARGS)
	@tools/bootstrap.sh run
	@$(BIN)/farthing up $(ARGS)

.PHONY: down
down: ## Stop the stack
	@if [[ -x $(BIN)/farthing ]]; then $(BIN)/farthing down; fi

.PHONY: test
test: bootstrap lint types check-generated engine-env ## Check everything and run every test, real parts included
	$(BIN)/pytest -m "not alone" $(SHARED) $(SLOWEST)
	$(BIN)/pytest -m alone $(SLOWEST)

.PHONY: lint
lint: ## Check style, formatting and import rules
	@tools/bootstrap.sh python
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	@# it warns of each part of a line whose comment was meant for another part
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive core collectors exporters alerts dashboards app tools deploy \
		2>&1 | { grep -v "nosec encountered" || true; }

.PHONY: types
types: ## Check types
	@tools/bootstrap.sh python
	$(BIN)/mypy

.PHONY: generate
generate: ## Write the generated rules, dashboards, configuration and references
	@tools/bootstrap.sh python
	$(BIN)/farthing generate

.PHONY: check-generated
check-generated: ## Fail when a generated file is not current
	@tools/bootstrap.sh python
	$(BIN)/farthing generate --check

.PHONY: engine-env
engine-env: bootstrap ## Create the environments of the real engine and of the example that the integration tests use
	tools/engine_env.sh
	tools/example_env.sh

.PHONY: unit
unit: ## Run the tests that need no real parts
	@tools/bootstrap.sh python
	$(BIN)/pytest -m "not real" $(SHARED)

.PHONY: integration
integration: bootstrap engine-env ## Run the tests that need real parts
	$(BIN)/pytest -m "real and not alone" $(SHARED)
	$(BIN)/pytest -m alone $(SLOWEST)

.PHONY: bench
bench: ## Run the benchmarks
	@tools/bootstrap.sh python
	@for benchmark in benchmarks/bench_*.py; do echo "$$benchmark"; $(BIN)/python "$$benchmark"; done

.PHONY: screenshot
screenshot: bootstrap ## Photograph the page of a replayed H100 into docs/images
	@$(BIN)/python tools/screenshot.py

.PHONY: clean
clean: ## Remove environments, caches and build products (the state folder .farthing stays)
	rm -rf .venv .venv-tools .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
	rm -rf tests/dashboards/schema/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
