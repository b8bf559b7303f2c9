# Sets up in .venv what each command needs, and runs it; the second time it only runs it.
# `make` alone lists the commands. To choose otherwise:
#   PYTHON=python3.12   which Python makes .venv (3.11 to 3.13)
#   LANE=cpu            a machine with a card as if it had none (or gpu)
#   TORCH_INDEX=URL     another build of torch, e.g. https://download.pytorch.org/whl/cu126 for an older driver

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check $(shell [ -t 2 ] || echo -q)
TORCH := torch==$(shell sed -n 's/^torch==//p' requirements-cpu.txt)
UNSLOTH := $(shell grep '^unsloth' requirements.txt)
CPU_INDEX := https://download.pytorch.org/whl/cpu

# In WSL the driver's tools are not always on the PATH.
SMI := PATH="$$PATH:/usr/lib/wsl/lib" nvidia-smi
CARD := $(shell $(SMI) -L 2>/dev/null | sed -n 's/^GPU 0: //p' | sed 's/ .UUID.*//')
ifdef LANE
WHY := LANE=$(LANE) was asked for
else ifneq ($(CARD),)
LANE := gpu
WHY := nvidia-smi shows $(CARD)
else
LANE := cpu
WHY := nvidia-smi shows no NVIDIA GPU
endif
READY := $(VENV)/.ready-$(LANE)
READY_TEST := $(VENV)/.ready-test-$(LANE)

.PHONY: help demo lab test bench gpu-check table pictures lint format clean lane chromium

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: lane $(READY) ## fine-tune the tiny model from notebook 01 and print what changed (five minutes on two cores)
	@$(BIN)/python -m workbench.demo

lab: lane $(READY) ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/01_first_finetune.ipynb

# Two files at a time, each process with one thread: much of a test is importing, which has one thread anyway, and two
# threads each would wait for each other on two cores.
test: lane $(READY_TEST) chromium ## run all tests but those that need a GPU
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not gpu"

bench: lane $(READY) ## measure step time, start, redraw and memory; writes outputs/bench.json
	@$(BIN)/python bench/bench.py

gpu-check: lane $(READY_TEST) ## on a machine with a GPU: its tests and the benchmark; writes tests/gpu/results/
	@$(BIN)/python -m pytest -m gpu tests/gpu
	@$(BIN)/python bench/bench.py --gpu

table: lane $(READY) ## write the README's table of models and cards anew
	@$(BIN)/python -m workbench plan --table > .plan-table
	@sed -i -e '/^<!-- plan-table -->$$/,/^<!-- \/plan-table -->$$/{//!d}' -e '/^<!-- plan-table -->$$/r .plan-table' README.md
	@rm .plan-table

pictures: lane $(READY_TEST) chromium ## take pictures of all panels into outputs/screenshots, and the README's anew
	@$(BIN)/python tests/browser/picture.py

lint: $(READY_TEST) ## check style, imports and that notebooks carry no outputs
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/nbstripout --verify notebooks/*.ipynb

format: $(READY_TEST) ## put code and notebooks into shape
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format . && $(BIN)/nbstripout notebooks/*.ipynb

clean: ## remove what was set up and cached; runs in outputs/ stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

lane:
	@echo "Using the $(LANE) lane: $(WHY)."

$(BIN)/python:
	@for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	  if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
	    echo "Making $(VENV) with $$("$$python" --version)."; "$$python" -m venv $(VENV); exit; \
	  fi; \
	done; \
	python="$(or $(PYTHON),python3)"; \
	echo "Python 3.11, 3.12 or 3.13 is needed; $$python is $$("$$python" --version 2>/dev/null || echo "not here")." \
	  "Install one, or name it: make PYTHON=/path/to/python3.12" >&2; \
	exit 1

# torch first and by itself: which build it is decides everything that comes after.
$(VENV)/.ready-cpu: requirements-cpu.txt pyproject.toml | $(BIN)/python
	@echo "Installing what a machine without a GPU needs (about 1.5 GB, a few minutes)."
	@$(PIP) -q "$(TORCH)+cpu" 2>/dev/null || \
	  $(PIP) --retries 1 "$(TORCH)+cpu" --extra-index-url $(or $(TORCH_INDEX),$(CPU_INDEX)) || \
	  { echo "The CPU build of torch was not reached: taking the larger one with CUDA, which works too."; $(PIP) $(TORCH); }
	@$(PIP) -r requirements-cpu.txt
	@$(PIP) --no-deps -e .
	@touch $@

$(VENV)/.ready-gpu: requirements.txt requirements-cpu.txt pyproject.toml | $(BIN)/python
	@echo "Installing what a machine with an NVIDIA GPU needs (about 8 GB, several minutes)."
	@cuda=$$($(SMI) | sed -n 's/.*CUDA Version: \([0-9]*\).*/\1/p' || true); \
	if [ "$${cuda:-13}" -lt 13 ] && [ -z "$(TORCH_INDEX)" ]; then \
	  echo "The driver knows CUDA $$cuda; this torch is built for CUDA 13. If torch finds no card afterwards: update the"; \
	  echo "driver, or run  make clean  and add  TORCH_INDEX=https://download.pytorch.org/whl/cu126  to this command."; \
	fi
	@if $(BIN)/python -m pip list 2>/dev/null | grep -q '^torch .*+cpu'; then $(BIN)/python -m pip uninstall -q -y torch triton; fi
	@$(PIP) $(TORCH) $(TORCH_INDEX:%=--index-url %)
	@$(PIP) -r requirements.txt
	@$(PIP) --no-deps -e .
	@touch $@

$(READY_TEST): $(READY) requirements-test.txt tests/colab_stack.txt
	@echo "Installing what the tests need."
	@$(PIP) -r requirements-test.txt
	@$(PIP) --no-deps $(UNSLOTH)
	@rm -rf $(VENV)/colab && $(PIP) --no-deps --target $(VENV)/colab -r tests/colab_stack.txt
	@touch $@

chromium:
	@if command -v chromium chromium-browser google-chrome >/dev/null; then exit; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing Chromium for the browser tests."; \
	  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install chromium fonts-dejavu-core >/dev/null; \
	else \
	  echo "There is no Chromium, so the browser tests are skipped. For them: sudo apt-get install chromium"; \
	fi
