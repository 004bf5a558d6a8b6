# Each target does its own set-up: a virtual environment in .venv, packages pinned by constraints.txt.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
RECIPE ?= pipelines/recipes/demo.yaml

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint compile bench clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/\1\t\2/' | expand -t 10

setup: $(VENV)/.installed ## make .venv and install everything, pinned

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup ## the whole pipeline on this machine, in minutes; results in runs/demo (RECIPE=… for another recipe)
	$(BIN)/python -m pipelines.matta_pipeline run --recipe $(RECIPE)

test: setup ## every test that this machine can run (ARGS=… goes to pytest)
	$(BIN)/python -m pytest $(ARGS)

lint: setup ## ruff, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

compile: setup ## write matta_pipeline.yaml for Kubeflow
	$(BIN)/python -m pipelines.matta_pipeline compile --recipe $(RECIPE) --output matta_pipeline.yaml

bench: setup ## measure what the README claims
	$(BIN)/python -m benchmarks.quality

clean: ## remove .venv and runs/
	rm -rf $(VENV) runs *.egg-info
