.DEFAULT_GOAL := help
PYTHON ?= python3
CLUSTER = $(PYTHON) -m tests.cluster
VENV = .venv/bin

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## From nothing to an answer: environment, cluster, images, operator, a served model
	$(CLUSTER) demo

.PHONY: env
env: ## Make the Python environment .venv, or bring it up to date
	$(CLUSTER) environment

.PHONY: cluster
cluster: ## Start this checkout's Kubernetes, building what is missing
	$(CLUSTER) up

.PHONY: cluster-down
cluster-down: ## End it; binaries and images stay in the cache
	$(CLUSTER) down

.PHONY: images
images: ## Build the images and bring them to the cluster
	$(CLUSTER) images

.PHONY: crds
crds: env ## Generate the CustomResourceDefinition from the models in aweigh_api
	$(VENV)/python -m aweigh_api.crd > crds/inferenceservices.yaml
	cp crds/inferenceservices.yaml helm/aweigh/files/

.PHONY: wheel
wheel: env ## Build the Python package into dist/
	$(VENV)/python -m build --wheel --no-isolation

.PHONY: chart
chart: env ## Render the chart anew into the files that reviews compare
	$(VENV)/python -m tests.chart

.PHONY: requirements
requirements: ## Refresh the pinned versions from pyproject.toml
	$(CLUSTER) requirements

.PHONY: sbom
sbom: ## Write a bill of materials of each image into dist/
	$(CLUSTER) sbom

.PHONY: format
format: env ## Rewrite files to the house style
	$(VENV)/ruff check --fix-only .
	$(VENV)/ruff format .

.PHONY: lint
lint: env ## Style, types and the import rules between packages
	$(VENV)/ruff format --check .
	$(VENV)/ruff check .
	$(VENV)/mypy
	$(VENV)/lint-imports

.PHONY: test
test: ## Everything that needs no GPU, the real Kubernetes included
	$(MAKE) --no-print-directory -k -j2 test-served test-computed test-parts

# What computes and waits for nobody runs beside servers and clusters, which wait, and yields to them.
COMPUTED = tests/kernels tests/quantize tests/distill tests/runtime/formats tests/runtime/model
# What needs neither a cluster nor a machine of its own follows on the processor that this leaves.
PARTS = tests/api tests/bench tests/operator tests/runtime/engine tests/runtime/sources
PARTS += tests/runtime/text

.PHONY: test-computed
test-computed: env ## The part of it that only computes
	OMP_NUM_THREADS=1 nice -n 19 $(VENV)/python -m pytest -q --timeout=1200 -m 'not gpu and not long' $(COMPUTED)

.PHONY: test-parts
test-parts: env ## The part of it that others may run beside
	OMP_NUM_THREADS=1 $(VENV)/python -m pytest -q -m 'not gpu and not long' $(PARTS)

.PHONY: test-served
test-served: env ## The rest; alone it prints times that nothing disturbs
	$(CLUSTER) everything
	$(VENV)/python -m pytest -m 'not gpu and not long' $(foreach path,$(COMPUTED) $(PARTS),--ignore=$(path))

.PHONY: test-fast
test-fast: env ## Neither a GPU nor a cluster
	$(VENV)/python -m pytest -m 'not gpu and not cluster and not long'

.PHONY: test-gpu
test-gpu: env ## What needs this machine's GPU
	$(VENV)/python -m pytest -m 'gpu and not long' tests/kernels tests/runtime

.PHONY: test-gpu-long
test-gpu-long: env ## A soak of a server on this machine's GPU: minutes
	$(VENV)/python -m pytest -m 'gpu and long' tests/runtime

.PHONY: test-sanitizer
test-sanitizer: env ## Every GPU kernel under compute-sanitizer: bounds, races, reads of what nobody wrote
	$(VENV)/python -m tests.kernels.sanitizer

.PHONY: test-long
test-long: ## Soaks, faults and scale: minutes each
	$(CLUSTER) everything
	$(VENV)/python -m pytest -m 'long and not gpu'

.PHONY: bench
bench: env ## Run the benchmark BENCH=NAME, or all that can run here; PEERS=FOLDER: beside vLLM's products
	$(VENV)/python -m benchmarks $(if $(PEERS),--peers $(PEERS)) $(BENCH)

.PHONY: check
check: lint test ## What CI runs

.PHONY: clean-cache
clean-cache: ## End the cluster and remove all that it has cached
	$(CLUSTER) clean
