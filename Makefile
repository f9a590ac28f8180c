# Everything runs in .venv, which the first target that needs it makes. `make help` lists the targets.

BIN := .venv/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -c constraints.txt
ARGS ?=

.PHONY: help demo test check fix format lint types imports docs chromium clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1: /p' Makefile | awk -F': ' '{ printf "  make %-9s %s\n", $$1, $$2 }'

demo: .venv/installed ## the paper in miniature, on data that need no download; a few minutes
	$(BIN)/alidade demo --out runs/demo
	@echo "The report: $(CURDIR)/runs/demo/report.html"

test: .venv/installed-dev chromium ## all tests; ARGS="-k name" picks some
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup $(ARGS)

check: format lint types imports docs test ## all that has to pass before a change goes in

fix: .venv/installed-dev ## put the format right, and what ruff can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

format: .venv/installed-dev ## is everything formatted?
	$(BIN)/ruff format --check .

lint: .venv/installed-dev ## ruff's rules
	$(BIN)/ruff check .

types: .venv/installed-dev ## mypy, strict
	$(BIN)/mypy

imports: .venv/installed-dev ## do imports point down?
	$(BIN)/lint-imports

docs: .venv/installed-dev ## do the links lead somewhere, do the examples in the documents run?
	$(BIN)/python -m pytest -q tests/architecture/test_docs.py

clean: ## remove .venv and caches; measured runs stay
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps keep a second call from installing again, until what is asked for changes.
.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e .
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[dev]'
	@touch $@ .venv/installed

# The first Python that runs (a name on the path may be a dead shim) and is new enough.
.venv/bin/python:
	@for python in $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python) none; do \
	  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	done; \
	if [ $$python = none ]; then \
	  echo "Expected Python 3.11 or newer, found $$($(or $(PYTHON),python3) --version 2>&1 | head -n 1): install one, or name it with make PYTHON=..."; exit 1; \
	fi; \
	if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$python cannot make virtual environments: install the package python3-venv (Debian, Ubuntu) and try again"; exit 1; \
	fi; \
	echo "Making .venv with $$($$python --version)"; \
	$$python -m venv .venv || { rm -rf .venv; exit 1; }

# The report is tested in a real browser. Without one those tests are skipped, and this says so.
chromium:
	@for browser in chromium chromium-browser google-chrome; do \
	  command -v $$browser >/dev/null && exit 0; \
	done; \
	if [ "$$(id -u)" = 0 ]; then sudo=; elif sudo -n true 2>/dev/null; then sudo="sudo -n"; else sudo=none; fi; \
	if [ "$$sudo" = none ] || ! command -v apt-get >/dev/null; then \
	  echo "No Chromium here: the tests in the browser will be skipped"; exit 0; \
	fi; \
	echo "Installing Chromium for the tests in the browser"; \
	{ $$sudo apt-get -qq update && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends chromium; } >/dev/null 2>&1 \
	  || echo "Chromium could not be installed: the tests in the browser will be skipped"
