# Every verb of the project. Each one works as the first command after a clone: it makes the virtual environment itself,
# from the lock files, wheels only, every file checked against its hash.

PYTHON ?= python3
VENV ?= .venv
URL ?= http://127.0.0.1:8080
LOAD ?= --rate 2 --run-time 60s
MIXED ?= --rate 2 --shape day --batches 1 --batch-lines 200 --run-time 120s
LAB ?= suite --quick
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes
LOCK := uv pip compile pyproject.toml --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
        --only-binary :all: --no-emit-index-url --no-emit-find-links --no-annotate --no-header

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench load load-mixed lab image lock clean

help:           ## this list
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

setup: $(VENV)/.dev  ## make .venv/ with everything a developer needs

demo: $(VENV)/.run   ## simulated model servers, a gateway, traffic, and a table of where requests go and why
	@$(BIN)/python -m gateway demo

test: $(VENV)/.dev   ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

check: $(VENV)/.dev  ## lint, types, and the layer-and-door rules
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

bench: $(VENV)/.dev  ## CPU, added latency and memory against other proxies; writes docs/bench.md
	$(BIN)/python -m tests.bench --write docs/bench.md

load: $(VENV)/.dev   ## locust against URL (the demo's; start it first), options in LOAD; report build/load.html
	@mkdir -p build
	$(BIN)/locust -f loadtest/locustfile.py --headless --host $(URL) $(LOAD) --html build/load.html

load-mixed: $(VENV)/.dev  ## the same with batches beside the people (the gateway needs `jobs:`), options in MIXED
	@mkdir -p build
	$(BIN)/locust -f loadtest/locustfile.py --headless --host $(URL) $(MIXED) --html build/load-mixed.html

evidence-%: $(VENV)/.dev  ## one promise, shown: hung outage memory reload restart keepalive_race killed replay strictness predict interference overload limits jobs_killed jobs_size splits rewrites reloads canary_aa canary_detection canary_synthetic canary_restart mirror plan
	$(BIN)/python -m tests.evidence.$* $(ARGS)

lab: $(VENV)/.run    ## policies on traces in virtual time: the standard suite in its quick form (all of it: LAB=suite)
	@$(BIN)/python -m gateway lab $(LAB)

image:          ## build the container image
	docker build -t headway .

lock:           ## resolve the lock files anew (the only verb that needs `uv`)
	$(LOCK) -o requirements.lock
	$(LOCK) --extra load --group dev -c requirements.lock -o requirements-dev.lock
	printf 'setuptools\n' | $(subst pyproject.toml,-,$(LOCK)) -c requirements-dev.lock -o requirements-build.lock

clean:          ## remove what the verbs above made, the environment too
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Two stamps, so that the demo starts after sixteen small wheels and not after eighty.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headway needs Python 3.11 or newer; this is " + sys.version.split()[0] + " (another one: make PYTHON=python3.12 ...)")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock | $(VENV)/bin/pip
	@echo "installing the run-time lock into $(VENV) ..."
	@$(INSTALL) -r requirements.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock | $(VENV)/bin/pip
	@echo "installing the developers' lock into $(VENV) (a minute, once) ..."
	@$(INSTALL) -r requirements-dev.lock
	@touch $@ $(VENV)/.run
