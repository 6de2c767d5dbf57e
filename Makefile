# Everything a developer types. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE := $(or $(GPU_STANDBY_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/gpu-standby)
VENV := $(CACHE)/venv-$(shell sha256sum requirements-dev.txt | cut -c1-12)
PYTHON := PYTHONPATH=operator:. $(VENV)/bin/python
CODE := operator hack tests
# A KUBECONFIG that is not our own names somebody else's cluster: it is used as it is, with the images it has.
OWN := $(CACHE)/cluster/kubeconfig
OURS := $(if $(filter-out $(OWN),$(KUBECONFIG)),,yes)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

$(VENV)/complete:
	@echo "Installing the Python packages of requirements-dev.txt"
	rm -rf $(VENV)
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --require-hashes -r requirements-dev.txt
	touch $@

.PHONY: venv
venv: $(VENV)/complete ## the Python environment, outside the checkout, from the lock file

.PHONY: lock
lock: venv ## write the lock files anew from pyproject.toml
	$(VENV)/bin/pip install --quiet uv
	$(VENV)/bin/uv pip compile pyproject.toml --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -q -o requirements.txt
	$(VENV)/bin/uv pip compile pyproject.toml --group dev --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -q -o requirements-dev.txt

.PHONY: lint
lint: lint-format lint-style lint-types lint-imports lint-crds ## format, style, types, direction of imports, drift of the CRDs
	@test ! -e operator/__init__.py || { echo "operator/ must not be a package: it would hide Python's own module"; exit 1; }

.PHONY: lint-format lint-style lint-types lint-imports lint-crds
lint-format: venv
	$(VENV)/bin/ruff format --check $(CODE)
lint-style: venv
	$(VENV)/bin/ruff check $(CODE)
lint-types: venv
	$(VENV)/bin/mypy
lint-imports: venv
	PYTHONPATH=operator $(VENV)/bin/lint-imports
lint-crds: venv
	$(PYTHON) hack/generate_crds.py --check

.PHONY: crds
crds: venv ## write crds/ and the chart's copy from the models
	$(PYTHON) hack/generate_crds.py

.PHONY: test
test: test-unit test-contract test-e2e ## all set-up, then every test

.PHONY: test-unit
test-unit: venv ## the core, the API, the pure parts
	$(PYTHON) -m pytest tests/unit -q -n 2 --dist worksteal

.PHONY: test-contract
test-contract: venv ## adapters, agent and stand-ins against the real clients and servers (no cluster)
	hack/cluster/prerequisites
	$(PYTHON) -m pytest tests/contract -q -n 4 --dist worksteal -m "not e2e"

.PHONY: test-e2e
test-e2e: venv cluster image ## on a real Kubernetes, with real machines as far as SSH can tell
	$(PYTHON) -m pytest tests/e2e -q -n 3 --dist loadgroup

.PHONY: cluster
cluster: ## a real Kubernetes on this machine (the first time about 15 minutes of compiling)
	@$(if $(OURS),hack/cluster/up >/dev/null,echo "Using the cluster of $(KUBECONFIG)")

.PHONY: cluster-down
cluster-down: ## remove it, with everything it made
	hack/cluster/down

.PHONY: image
image: ## build the images and load them into the cluster
	@$(if $(OURS),hack/cluster/load-image "$$(hack/image/build)",true)
	@$(if $(OURS),hack/cluster/load-image "$$(hack/image/build hack/fakes/Dockerfile localhost/gpu-standby-fakes:dev)",true)

.PHONY: fakes
fakes: cluster image ## the stand-in Vast.ai in the running cluster; prints the environment to use it with
	@eval "$$(hack/cluster/env)" && hack/fakes/deploy

.PHONY: demo
demo: venv cluster image ## all set-up, then the whole story
	$(PYTHON) hack/demo/run.py

.PHONY: demo-down
demo-down: cluster-down ## remove everything the demo made

.PHONY: bench-failover
bench-failover: venv cluster image ## measure failover and recovery: RUNS of each kind (20)
	@over=0; for bench in idle_cycle quick_tests failover; do $(PYTHON) hack/bench/$$bench.py || over=1; done; exit $$over
