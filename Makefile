# Two commands from nothing: `make demo` and `make test`. What they need, .ci/setup installs once.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

BIN := .venv/bin
SOURCES := drtool tests
# Tests start drtool some hundred times. Where PYTHONDONTWRITEBYTECODE is set, as in many containers, each start
# compiled all of it anew, which took longer than the rest of the command.
# Four workers on two cores: a third of the tests' time is waiting. The tests of one file stay together,
# because they share their servers, and tests/conftest.py says which begin first.
PYTEST_ARGS ?= -n 4 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test lint fmt soak fuzz bench clean setup setup-demo

help: ## this text
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup-demo ## the whole story on this machine, in about a minute: write, destroy, restore, measure
	@$(BIN)/drtool demo

test: setup ## everything that must pass before a commit: ruff, mypy, pytest
	@begin=$$SECONDS; \
	stage() { name=$$1; shift; echo "== $$name"; "$$@" || { echo "== FAILED: $$name ($$*)" >&2; exit 1; }; }; \
	stage "ruff check" $(BIN)/ruff check $(SOURCES); \
	stage "ruff format" $(BIN)/ruff format --check $(SOURCES); \
	stage "compileall" $(BIN)/python -m compileall -q -j 2 $(SOURCES); \
	types=$$(mktemp); trap 'rm -f $$types' EXIT; \
	$(BIN)/mypy --strict $(SOURCES) >$$types 2>&1 & typing=$$!; \
	typed() { local code=0; wait $$typing || code=$$?; cat $$types; return $$code; }; \
	stage "pytest" $(BIN)/python -m pytest $(PYTEST_ARGS); \
	stage "mypy" typed; \
	echo "== PASSED: ruff, mypy and pytest in $$((SECONDS - begin)) s"

lint: setup ## ruff and mypy only
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy --strict $(SOURCES)

fmt: setup ## let ruff mend what it can
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

soak: setup ## random faults for a long time; not part of make test
	@$(BIN)/python -m pytest -m soak $(SOAK_ARGS)

fuzz: setup ## ten minutes of hostile bytes for every reader; FUZZ_SECONDS=, FUZZ_SEED= to change that
	@$(BIN)/python -m pytest -m fuzz tests/fuzz -rP $(FUZZ_ARGS)

bench: setup ## measure against pg_basebackup and pg_receivewal; prints ratios
	@$(BIN)/python -m tests.bench $(BENCH_ARGS)

lock: ## lock the newest packages that pyproject.toml allows, each file with its hash (.ci/lock)
	@.ci/relock

audit: ## ask PyPI's database about known vulnerabilities of the locked packages
	@.ci/audit

clean: ## remove .venv, caches and build products; nothing else
	@rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find drtool tests -name __pycache__ -type d -prune -exec rm -rf {} +

setup:
	@.ci/setup test

setup-demo:
	@.ci/setup demo
