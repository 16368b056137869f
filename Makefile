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

.PHONY: help train test lint docs bench results gpu gpu-smoke clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

train: $(VENV)/installed  ## Train ENV (CartPole-v1) until it is solved
	$(BIN)/operant-gpu train $(ENV)

test: $(VENV)/tested $(OLDEST_TRITON)  ## Run the whole suite, then the kernels in Triton's interpreter
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal
	TRITON_INTERPRET=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m interpreted

lint: $(VENV)/tested  ## Check style, types and which room imports which
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

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

# For a machine with a GPU, with the python that has torch, triton and pytest there; results and log go to OUT.
gpu gpu-smoke: OUT ?= build/gpu
gpu:  ## Check and measure on a GPU, in about six minutes (STAGES=c,d for some of it)
	$(PYTHON) bench/gpu.py --out $(OUT) $(if $(STAGES),--stages $(STAGES))

gpu-smoke:  ## See in two minutes whether a GPU computes what the CPU does
	$(PYTHON) bench/gpu.py --out $(OUT) --stages a,b

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
