# Set-up needs Python (>= 3.10) and make alone: every command makes .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
OLDEST_TRITON := $(VENV)/triton-3.6
ENV ?= CartPole-v1
# A failure before a pipe is a failure.
SHELL := bash
.SHELLFLAGS := -o pipefail -c

.PHONY: help train test lint docs bench results gpu clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

train: $(VENV)/installed  ## Train ENV (CartPole-v1) until it is solved
	$(BIN)/operant-gpu train $(ENV)

test: $(VENV)/tested $(OLDEST_TRITON)  ## Run the whole suite, then the kernels in Triton's interpreter
	$(BIN)/python -m pytest --numprocesses 2
	TRITON_INTERPRET=1 $(BIN)/python -m pytest --numprocesses 2 -k triton

lint: $(VENV)/tested  ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(VENV)/tested  ## Build the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --site-dir build/site

bench: $(VENV)/benched  ## Measure throughput beside other libraries
	$(BIN)/python bench/env_throughput.py
	$(BIN)/python bench/games_throughput.py
	$(BIN)/python bench/ppo_throughput.py
	$(BIN)/python bench/ppo_throughput.py --env Pendulum-v1
	$(BIN)/python bench/training.py
	$(BIN)/python bench/run_overhead.py

results: $(VENV)/benched  ## Train everything beside Stable-Baselines3 and write docs/results.md (about 40 minutes)
	$(BIN)/python bench/learning.py

# For a machine with a GPU, with the python that has torch, triton and pytest there; logs go to OUT.
gpu: OUT ?= build
gpu:  ## Run the GPU tests, then the benchmarks, and print a short table last
	@mkdir -p $(OUT)
	$(PYTHON) -m pytest -m gpu tests 2>&1 | tee $(OUT)/gpu-tests.log | tail -n 30
	@if ! command -v compute-sanitizer; then echo "compute-sanitizer is not there: skipped"; else \
		compute-sanitizer --error-exitcode 9 $(PYTHON) -m pytest -m gpu tests/gpu \
		-k "(what_numpy_does and (MinAtar or Cuda)) or (draws_of_networks and Cuda)" \
		2>&1 | tee $(OUT)/compute-sanitizer.log | tail -n 5; fi
	for env in CartPole-v1 Pendulum-v1; do \
		$(PYTHON) bench/ppo_throughput.py --env $$env --json $(OUT)/ppo_throughput-$$env.json \
		2>&1 | tee $(OUT)/ppo_throughput-$$env.log; done
	$(PYTHON) bench/training.py --json $(OUT)/training.json 2>&1 | tee $(OUT)/training.log
	$(PYTHON) bench/games_throughput.py --json $(OUT)/games_throughput.json 2>&1 | tee $(OUT)/games_throughput.log
	-$(PYTHON) bench/run_overhead.py --envs CartPole-v1 --json $(OUT)/run_overhead.json 2>&1 | tee $(OUT)/run_overhead.log
	$(PYTHON) bench/env_throughput.py --json $(OUT)/env_throughput.json 2>&1 | tee $(OUT)/env_throughput.log

clean:  ## Remove what the commands made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@echo "Setting up $(VENV), once: this takes a minute or two"
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) torch
	$(PIP) --editable '.[cpu,render]'
	touch $@

$(VENV)/tested: $(VENV)/installed
	$(PIP) --editable '.[test]'
	touch $@

$(VENV)/benched: $(VENV)/tested
	$(PIP) --editable '.[bench]'
	# gymnax asks for an older Gymnasium than it needs; the rest of what it needs is in the extra.
	$(PIP) --no-deps gymnax
	touch $@

$(OLDEST_TRITON): $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ triton==3.6.0
