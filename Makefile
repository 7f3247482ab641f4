# What a person does with a checkout. `make help` lists it; a fresh machine needs Python 3.11 and make.

.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
# More than four test processes on one machine wait for each other's etcd servers.
TEST_PROCESSES ?= 2
TESTS ?= tests
PYTEST_OPTIONS ?=
BENCH_OPTIONS ?=

.PHONY: help setup setup-dev demo test sim lint format bench bench-agent bench-ha clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## Make .venv with the product in it
	@tools/setup.sh

setup-dev:
	@tools/setup.sh dev

demo: setup ## Walk through a cluster on this machine; KEEP=1 leaves it running
	@$(BIN)/python tools/demo.py $(if $(KEEP),--keep)

test: lint ## Run the checks and all tests (TESTS=tests/cli for a part)
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal $(PYTEST_OPTIONS) $(TESTS)

sim: setup-dev ## Play simulated clusters (SEEDS=1000 FIRST=1), or one again (SEED=42)
	$(BIN)/python -m tests.sim $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),100) --first $(or $(FIRST),1)) --jobs $(TEST_PROCESSES)

lint: setup-dev ## Run the checks of style, types and imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: setup-dev ## Put the sources into the common format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup-dev ## Run the benchmarks, one after another
	@for program in $(filter-out bench/ha.py,$(wildcard bench/*.py)); do \
		echo "== $$program"; $(BIN)/python "$$program" || exit 1; \
	done

bench-ha: setup-dev ## Let everything fail, measure, and write docs/failures.md (BENCH_OPTIONS=--help); an hour
	@$(BIN)/python bench/ha.py --json docs/failures.json $(BENCH_OPTIONS)
	@$(BIN)/python tools/failures_page.py

bench-agent: setup-dev ## Measure supervisors of one host side by side (BENCH_OPTIONS=--help)
	@$(BIN)/python bench/supervisors.py $(BENCH_OPTIONS)

clean: ## Remove .venv and everything that was built
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
