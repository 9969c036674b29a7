# All targets run in .venv. `make setup` creates it with uv, which is installed in .uv. The system stays unchanged.
PYTHON ?= python3
SCENARIO ?= tweets
UV = .uv/bin/uv
RUN = .venv/bin/
# Tests run in parallel, one worker for each of two cores; an idle worker takes tests from a busy one.
WORKERS ?= 2
PYTEST = $(RUN)python -m pytest --numprocesses=$(WORKERS) --dist=worksteal --durations=50 --durations-min=1
FAST = -m "not slow and not compose"
export UV_PROJECT_ENVIRONMENT = .venv

.PHONY: help setup simulate demo test test-all lint fast all unit coverage browser docs test-compose test-hostile test-faults soak bench-swaps bench-backpressure bench-adaptation bench-tables bench-detection bench bench-serving bench-page bench-scaling bench-growth bench-retraining images dist sbom audit-dependencies clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: .venv/.ready ## prepare the environment, uv itself included

.uv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "driftloop needs Python 3.11 or newer: run make with PYTHON=python3.11, say.")'
	$(PYTHON) -m venv .uv
	.uv/bin/pip --quiet --disable-pip-version-check install 'uv>=0.9,<1'

.venv/.ready: .uv/bin/uv pyproject.toml uv.lock
	$(UV) sync --locked --all-extras --compile-bytecode --python $(PYTHON)
	@touch $@

simulate: setup ## run the whole loop, live: SCENARIO=tweets by default, ARGS for more options
	$(RUN)driftloop simulate $(SCENARIO) $(ARGS)

demo: setup browser ## run the guided demo, which records itself; ARGS=--fast takes under four minutes
	$(RUN)driftloop demo $(ARGS)

test: setup lint fast ## run lint, types, architecture and the fast tests, as CI does on each push
test-all: setup lint all ## run lint, types, architecture and all tests, as CI does each night

fast: setup
	$(PYTEST) $(FAST) tests

# A third worker saves a tenth of the time, because some slow tests wait.
all: WORKERS = 3
all: setup browser
	$(PYTEST) tests --ignore=tests/compose

coverage: setup ## report the share of lines that the fast tests run, child processes included
	$(RUN)python -m coverage erase
	$(RUN)python -m coverage run -m pytest --numprocesses=$(WORKERS) --dist=worksteal $(FAST) tests
	$(RUN)python -m coverage combine --quiet
	$(RUN)python -m coverage report --skip-covered --sort=cover

lint: setup
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy
	$(RUN)lint-imports
	$(RUN)codespell

unit: setup ## run the fast tests that need no Kafka, Valkey or MLflow
	$(PYTEST) $(FAST) tests/unit tests/contracts

browser: setup ## install Chromium for the browser tests and the demo, unless it exists
	$(RUN)python -m serving.demo.browser

docs: setup ## build the site of docs/ in site/
	$(RUN)python -m sphinx -W --keep-going -q docs site

test-compose: setup ## run docker-compose.yml with Docker or Podman, and kill services meanwhile
	$(RUN)python -m pytest tests/compose --capture=no

test-hostile: setup ## send more than 100,000 hostile inputs to every interface, and print the results
	HOSTILE=full $(RUN)python -m pytest --timeout=900 tests/unit/core/test_hostile_input.py tests/integration/test_hostile_streams.py \
	  tests/integration/test_api_hostile.py

test-faults: setup ## run every fault on every process and service, with controls: over an hour
	$(RUN)python -m pytest tests/faults
	$(RUN)python -m benchmarks.resilience.fault_matrix $(ARGS)

soak: setup ## run random faults under load for 30 minutes; ARGS="--minutes 5 --seed 7" for other runs
	$(RUN)python -m benchmarks.resilience.soak $(ARGS)

bench-swaps: setup ## measure a hundred promotions under load, with faults and poisoned models
	$(RUN)python -m benchmarks.resilience.promotions_under_load $(ARGS)

bench-backpressure: setup ## measure a producer ten times too fast; ARGS="--events 1000000" for a million events
	$(RUN)python -m benchmarks.resilience.backpressure $(ARGS)

bench-adaptation: setup ## compare policies, detectors and references in-process; ARGS=--full for all
	$(RUN)driftloop bench adaptation $(ARGS)

bench-tables: setup ## measure the tables and charts of docs/adaptation.md: some hours on one core
	$(RUN)driftloop bench adaptation --seeds 7 8 9 10 11 --out runs/adaptation/kinds.json \
	  --systems never periodic:1000 on-drift mixture error:adwin oracle online:softmax iid
	$(RUN)driftloop bench adaptation --full --scenarios tweets --out runs/adaptation/full.json
	$(RUN)driftloop bench adaptation --read runs/adaptation/full.json runs/adaptation/kinds.json \
	  --tables docs/adaptation.md --plots docs/adaptation

bench-detection: setup ## measure detectors on streams with known drift, and accuracy estimated without labels
	$(RUN)driftloop bench detection $(ARGS)

bench: setup .peers/.ready ## compare the scorer with Faust, Quix, kafka-python, Bytewax and MLflow's server: a quarter of an hour
	$(RUN)python -m benchmarks.performance.throughput $(ARGS)

.peers/.ready: benchmarks/performance/peers/pyproject.toml benchmarks/performance/peers/uv.lock
	UV_PROJECT_ENVIRONMENT=$(CURDIR)/.peers $(UV) sync --project benchmarks/performance/peers --locked --compile-bytecode --python $(PYTHON)
	@touch $@

bench-page: setup browser ## measure the cost of open live pages: ARGS="--tabs 5 --rounds 3"
	$(RUN)python -m benchmarks.performance.dashboard_cost $(ARGS)

bench-serving: setup ## compare the API's latency with MLflow's model server
	$(RUN)python -m benchmarks.performance.api_latency $(ARGS)

bench-scaling: setup ## measure several scorers on one topic, and changes of their number
	$(RUN)python -m benchmarks.performance.scaling $(ARGS)

bench-growth: setup ## measure the cost of an event as classes, texts, partitions, delays and history grow
	$(RUN)python -m benchmarks.performance.cost_growth $(ARGS)

bench-retraining: setup ## measure the scorer's latency before and during a retraining
	$(RUN)python -m benchmarks.performance.retraining_interference $(ARGS)

images: ## build the five container images of docker-compose.yml
	docker compose build

dist: $(UV) ## build the wheel and the source archive in dist/; TAG=v1.2.3 must be the version in pyproject.toml
	@test -z "$$TAG" || test "$$TAG" = "v$$($(UV) version --short)" \
	  || { echo "The tag $$TAG is not v$$($(UV) version --short), the version in pyproject.toml: correct one of them." >&2; exit 1; }
	$(UV) build --clear --out-dir dist

sbom: $(UV) ## write the SBOM of a full installation (CycloneDX) to dist/; run it after dist, which empties that folder
	@mkdir -p dist
	$(UV) export --quiet --locked --no-dev --all-extras --preview-features sbom-export --format cyclonedx1.5 \
	  --output-file dist/sbom.cdx.json >/dev/null

audit-dependencies: $(UV) ## check the lock for known vulnerabilities at osv.dev; needs a network, not part of test
	$(UV) audit --locked --preview-features audit-command

clean: ## remove the environment and the runs
	rm -rf .venv .uv .peers .promtool runs dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
