# Each target does its own set-up: a virtual environment in .venv, packages pinned by constraints.txt.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
RECIPE ?= pipelines/recipes/demo.yaml
# Of the images: what they are built on, where torch's wheels come from (empty: where pip's own settings look), a
# registry to put before their names.
BASE_IMAGE ?=
BEAM_IMAGE ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH_INDEX_GPU ?=
REGISTRY ?=
REVISION ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-docker images images-gpu image-data-worker test test-fast lint compile bench-quality bench-paper-size bench-train bench-teacher-cache clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 19

setup: $(VENV)/.installed ## make .venv and install everything, pinned

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup ## the whole pipeline on this machine, in minutes; results in runs/demo (RECIPE=… for another recipe)
	$(BIN)/python -m pipelines.matta_pipeline run --recipe $(RECIPE)

demo-docker: setup ## the same, each step in its image's container (first: make images)
	$(BIN)/python -m pipelines.matta_pipeline run --docker --recipe $(RECIPE) $(ARGS)

BUILD = $(BIN)/python -m containers.build $(if $(BASE_IMAGE),--base-image $(BASE_IMAGE)) \
	$(if $(REGISTRY),--registry $(REGISTRY)) $(if $(REVISION),--revision $(REVISION))

images: setup ## build the images data, trainer and evaluator (BASE_IMAGE=… TORCH_INDEX=… REGISTRY=…)
	$(BUILD) --torch-index '$(TORCH_INDEX)' data trainer evaluator

images-gpu: setup ## trainer and evaluator with CUDA; their tags end in -gpu (TORCH_INDEX_GPU=…)
	$(BUILD) --torch-index '$(TORCH_INDEX_GPU)' --variant=-gpu trainer evaluator

image-data-worker: setup ## Beam's worker for Dataflow, on the entrypoint of Beam's own image (BEAM_IMAGE=…)
	$(BUILD) $(if $(BEAM_IMAGE),--beam-image $(BEAM_IMAGE)) data-worker

# A test's models are tiny: a process for each core, and in it one thread.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test: setup ## every test that this machine can run (ARGS=… goes to pytest)
	$(PYTEST) $(ARGS)

test-fast: setup ## those that are neither slow nor need a Docker engine: about three minutes on two cores
	$(PYTEST) -m 'not slow and not docker' $(ARGS)

lint: setup ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

compile: setup ## write matta_pipeline.yaml for Kubeflow
	$(BIN)/python -m pipelines.matta_pipeline compile --recipe $(RECIPE) --output matta_pipeline.yaml

bench-quality: setup ## MatTA beside each size alone and other ways to a family; hours on two cores (ARGS=… goes to it)
	$(BIN)/python -m benchmarks.quality $(ARGS)

bench-paper-size: setup ## time and memory at the full size of a recipe, on random weights (ARGS=… goes to it)
	$(BIN)/python -m benchmarks.paper_size $(ARGS)

bench-train: setup ## a run's time and memory beside a plain joint step and sizes apart; minutes (ARGS=… goes to it)
	$(BIN)/python -m benchmarks.training_cost $(ARGS)

bench-teacher-cache: setup ## the Teacher's cache: bytes against errors, and its speed beside an online Teacher; some 15 minutes
	$(BIN)/python -m benchmarks.teacher_cache $(ARGS)
	$(BIN)/python -m benchmarks.teacher_online

clean: ## remove .venv and runs/
	rm -rf $(VENV) runs *.egg-info
