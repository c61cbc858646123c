# Every target makes and keeps .venv up to date by itself; `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PY := .venv/bin/python
# The name of the stamp says what was installed from where, so editing pyproject.toml or moving the folder
# installs again, and a fresh checkout's file times do not matter.
STAMP := .venv/.stamp-$(shell { pwd; cat pyproject.toml scripts/setup_venv.sh; } | cksum | cut -d ' ' -f 1)
# A .venv whose Python was removed, or whose packages were, is mended in spite of its stamp.
BROKEN := $(shell $(PY) -c 'import importlib.util as u; print(u.find_spec("trilane").name)' >/dev/null 2>&1 || echo broken)

.PHONY: help demo test check bench docs format clean broken

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP) ## Replay a week of real flights through the real server, and measure it
	@$(PY) -m examples.flights.demo

test: $(STAMP) ## Run all tests (ARGS="-k window -x" is passed on to pytest)
	@$(PY) -m pytest -n 2 --dist loadgroup $(ARGS)

check: $(STAMP) ## Lint, formatting, types, and the direction of imports
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy
	@$(PY) -c 'from importlinter.cli import lint_imports_command as lint; lint()' --no-logo

format: $(STAMP) ## Format the code and fix what can be fixed
	@$(PY) -m ruff check --fix
	@$(PY) -m ruff format

bench: $(STAMP) ## Run every benchmark in its quick form
	@for bench in benchmarks/bench_*.py; do \
		if [ ! -e "$$bench" ]; then echo "There is no benchmark in benchmarks/." >&2; exit 1; fi; \
		echo "== $$bench"; \
		$(PY) "$$bench" --quick; \
	done

docs: $(STAMP) ## Build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict 2>&1 | { grep -v '^INFO' || true; }
	@echo "The documentation is in site/index.html"

clean: ## Remove what the targets above made, but for installed packages and downloads
	@rm -rf .demo .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist site

broken:

$(STAMP): $(if $(BROKEN),broken)
	@MAKE_TARGET="$(firstword $(MAKECMDGOALS))" PYTHON="$(PYTHON)" scripts/setup_venv.sh $@
