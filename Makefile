# Each of these needs Python 3.11 or later and git, and installs the rest into .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
CODE := template hooks tests tools benchmarks

# Found first by every command below, so that a service that is rendered here uses the same uv.
export PATH := $(CURDIR)/$(BIN):$(PATH)
unexport VIRTUAL_ENV

.PHONY: help demo test check format docs benchmark requirements python rendering tests-installed

help:
	@echo "make demo          render a service with default answers and run it; Ctrl-C stops all of it"
	@echo "make test          run the tests; ARGS='-k text' chooses"
	@echo "make check         lint, format, types, workflows"
	@echo "make format        put right what make check says of the format"
	@echo "make docs          write docs/questions.md from copier.yml"
	@echo "make benchmark     measure a rendered service against its budgets"
	@echo "make requirements  pin anew what .venv gets; ARGS=--upgrade takes the newest"

demo: rendering
	@$(BIN)/python tools/demo.py

test: tests-installed
	@$(BIN)/python -m pytest $(ARGS)

check: tests-installed
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/basedpyright
	$(BIN)/zizmor --persona pedantic --offline --quiet --no-progress .github template/.github
	@command -v shellcheck >/dev/null || { echo "chassis: shellcheck is missing: apt install shellcheck" >&2; exit 1; }
	$(BIN)/actionlint

format: tests-installed
	$(BIN)/ruff check --fix --quiet $(CODE)
	$(BIN)/ruff format --quiet $(CODE)

docs: tests-installed
	$(BIN)/python tools/questions.py

benchmark: tests-installed
	$(BIN)/python benchmarks/run.py $(ARGS)

requirements: rendering
	$(BIN)/python tools/requirements.py $(ARGS)

rendering: python
	@$(PYTHON) tools/bootstrap.py

tests-installed: python
	@$(PYTHON) tools/bootstrap.py --dev

# Before any other code of ours, which an older Python could not even read.
python:
	@command -v "$(PYTHON)" >/dev/null || { echo "chassis: there is no $(PYTHON): install Python 3.11 or later" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "chassis: Python 3.11 or later is needed, this is $$("$(PYTHON)" -V 2>&1); try make PYTHON=/path/to/python3.13" >&2; exit 1; }
