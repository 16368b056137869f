# Set-up needs Python (>= 3.10) and make alone: every command makes .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PIP := $(INSTALL) --constraint constraints.txt
# Where to take PyTorch from, if not from the index that pip takes all else from.
TORCH_INDEX ?=
LOWEST := $(VENV)/lowest
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal
ENV ?= CartPole-v1
SEED ?= 0
# Tests start hundreds of processes: each would compile the library anew.
unexport PYTHONDONTWRITEBYTECODE
# A failure before a pipe is a failure.
SHELL := bash
.SHELLFLAGS := -o pipefail -c

.PHONY: help train check test thorough gpu-check adapters lowest lint docs bench level results gpu gpu-smoke clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

train: $(VENV)/installed  ## Train ENV (CartPole-v1) until it is solved
	$(BIN)/operant-gpu train $(ENV)

check: lint  ## Check style, types and imports, and run the tests that find most mistakes, in four minutes
	$(PYTEST) -m "quick and not thorough"

test: $(VENV)/tested  ## Run the suite; some of it on Triton's kernels compiled, on the executor, and in Triton's interpreter
	$(PYTEST)
	PTX_EXECUTE=1 $(PYTEST) -m "triton and quick"
	TRITON_INTERPRET=1 $(PYTEST) -m "triton and quick" tests/backends

thorough: $(VENV)/tested $(LOWEST)  ## Run what `make test` leaves out: other GPU generations, sanitizers, more on the executor and in the interpreter
	$(PYTEST) -m thorough
	PTX_EXECUTE=1 $(PYTEST) -m "triton and not quick and not thorough"
	PTX_EXECUTE=1 PTX_CAPABILITY=90 PTX_SCHEDULE=1 $(PYTEST) -m "triton and quick"
	TRITON_INTERPRET=1 $(PYTEST) -m "triton and quick" --ignore tests/backends

gpu-check: $(VENV)/tested  ## Run Triton's kernels compiled for two generations, in three orders of warps, and the tests for GPUs on them
	PTX_EXECUTE=1 PTX_APPROXIMATION=2 PTX_SCHEDULE=1 $(PYTEST) -m triton
	PTX_EXECUTE=1 PTX_APPROXIMATION=3 PTX_SCHEDULE=2 $(PYTEST) -m triton
	PTX_EXECUTE=1 PTX_CAPABILITY=90 PTX_SCHEDULE=3 $(PYTEST) -m triton
	$(BIN)/python tests/support/races.py
	PTX_EXECUTE=1 PTX_CUDA=1 $(PYTEST) tests/gpu

adapters: $(VENV)/adapted  ## Run the tests of other trainers on the environments, and the pages about coming from them
	$(PYTEST) -m adapters

lowest: $(VENV)/tested $(LOWEST)  ## Run the quick tests on the lowest versions of what the package needs
	PYTHONPATH=$(CURDIR)/$(LOWEST) $(PYTEST) -m "quick and not thorough"

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

level: $(VENV)/tested  ## Train the preset of ENV (CartPole-v1) with SEED (0), and compare what it plays with the record (games: 10 to 40 minutes)
	$(BIN)/python bench/levels.py --envs $(ENV) --check $(SEED)

results: $(VENV)/benched  ## Train every preset, and beside Stable-Baselines3, and write docs/results.md (some hours)
	$(BIN)/python bench/levels.py
	$(BIN)/python bench/learning.py

# For a machine with a GPU, with the python that has torch, triton and pytest there; results and log go to OUT.
gpu gpu-smoke: OUT ?= build/gpu
gpu:  ## Check and measure on a GPU, in seven minutes at most (STAGES=c,d for some of it)
	$(PYTHON) bench/gpu.py --out $(OUT) $(if $(STAGES),--stages $(STAGES))

gpu-smoke:  ## See in two minutes at most whether a GPU computes what the CPU does
	$(PYTHON) bench/gpu.py --out $(OUT) --stages a,b

clean:  ## Remove what the commands made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@echo "Setting up $(VENV), once: this takes minutes, most of them for PyTorch"
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
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

$(VENV)/adapted: $(VENV)/tested
	$(PIP) --editable '.[adapters]'
	# These ask for older versions of psutil, pygame and Gymnasium than they need.
	$(PIP) --no-deps gymnax rl-games
	touch $@

# On the path before all else, they take the place of the newest. torch's lowest is a download of gigabytes.
$(LOWEST): $(VENV)/installed
	$(INSTALL) --no-deps --upgrade --target $@ \
		gymnasium==1.1.0 "numpy==2.0.0; python_version < '3.13'" "numpy==2.1.0; python_version >= '3.13'" triton==3.6.0
	touch $@
