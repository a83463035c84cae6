# Owned by the template; your own targets belong into the Makefile of the root, which includes this.
# It needs make and Python, and installs the rest: uv if there is none, and what uv.lock says.

BIN := .venv/bin
UV := $(shell command -v uv || echo .dev/uv/bin/uv)
PYTHON ?= python3
REHEARSAL := $(strip $(if $(wildcard deploy/compose.yaml),\
  deploy this service on this machine as on a host under load; ROLLS=10 deploys ten times,\
  build the image and run it on this machine as production does))
COPIER := $(UV) tool run --from 'copier>=9.19.1,<10' copier

# An activated environment is another project's, as far as uv can tell.
unexport VIRTUAL_ENV

.PHONY: help dev stop test fuzz rehearse check format module migrate update installed
.DEFAULT_GOAL := help

help:
	@echo "make dev       start a PostgreSQL in .dev/, migrate, serve on PORT (8000), again on every change; Ctrl-C stops all"
	@echo "make stop      stop what a 'make dev' that was killed left running"
	@echo "make test      run the tests on a real PostgreSQL; ARGS='-k text' chooses"
	@echo "make fuzz      send all that may break a route for ten minutes; ARGS='--seed=1' repeats what a run has printed"
	@echo "make rehearse  $(REHEARSAL)"
	@echo "make check     lint, format, types, import contracts, what migrations would lock"
	@echo "make format    put right what make check says of the format"
	@echo "make module    write a new module and its test, as in make module NAME=invoices"
	@echo "make migrate   bring the database of DATABASE_URL, or the running development database, to this release"
	@echo "make update    bring the template's newest release into this checkout"

dev: installed
	@$(BIN)/chassis dev

stop: installed
	@$(BIN)/chassis stop

test: installed
	@$(BIN)/pytest --numprocesses=auto $(ARGS)

# Half of the time in each of two roles: an access token lasts no longer.
fuzz: installed
	@FUZZ='--max-time=300 $(ARGS)' $(BIN)/pytest --numprocesses=0 --capture=no chassis/tests/test_contract.py

# What is not named test_… only runs when it is asked for.
rehearse: installed
	@ROLLS=$(or $(ROLLS),2) $(BIN)/pytest --capture=no chassis/tests/deploy/rehearse_*.py $(ARGS)

check: installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/chassis migration lint

format: installed
	$(BIN)/ruff check --fix --quiet
	$(BIN)/ruff format --quiet

module: installed
	@$(BIN)/chassis module new "$(NAME)"

migrate: installed
	@$(BIN)/chassis migrate

# The hook of the template fails this when files are left with conflicts.
update: installed
	$(COPIER) update --trust --skip-answered $(ARGS)
	@$(UV) sync --quiet
	@$(BIN)/chassis permissions --write
	@echo "uv.lock is brought up to date: commit it too. 'make dev' and the deployment run what there is to migrate."

# Quick when nothing is missing, and quiet. What an installer says is kept for when something is.
installed: $(UV) | .dev
	@test -f uv.lock && $(UV) sync --check --quiet >/dev/null 2>&1 || { \
	  echo "Installing what pyproject.toml asks for ..."; \
	  $(UV) sync >.dev/install.log 2>&1 || { $(explain); }; }

.dev/uv/bin/uv: | .dev
	@command -v $(PYTHON) >/dev/null || { echo "chassis: there is no $(PYTHON): install Python 3.11 or later" >&2; exit 1; }
	@echo "Installing uv into .dev/uv ..."
	@{ $(PYTHON) -m venv --clear .dev/uv && .dev/uv/bin/pip install --disable-pip-version-check 'uv>=0.13,<1'; } \
	  >.dev/install.log 2>&1 || { $(explain); }

.dev:
	@test -w . || { echo "chassis: this folder is read-only: work in a copy that you can write to" >&2; exit 1; }
	@mkdir .dev

define explain
if grep -Eqi 'dns error|lookup|name resolution|connection (broken|refused|reset)|unreachable|timed out' .dev/install.log; \
	then reason='there is no network: the package index is out of reach'; \
	else reason=$$(grep -im 1 error .dev/install.log | sed 's/^ *//'); fi; \
	echo "chassis: $${reason:-the installation failed} (more in .dev/install.log)" >&2; exit 1
endef
