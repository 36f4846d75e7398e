# make demo   sets up everything in .venv and runs the whole workflow on the bundled structures
# make test   sets up everything if need be and runs the test suite
# make slurm   runs the tests on a Slurm of their own, where slurmctld, slurmd and munged are installed
# make docs   builds the documentation site in build/docs
# make soak   runs 30 whole workflows at the smallest size, each killed at random moments, and compares their files
# make nightly   runs what takes longer: the wheel with each Python found here, and all that can be lost on Slurm
# make mutate PATHS=dplm2/geometry   plants random faults there, one at a time, and lists those that no test notices
PYTHONS := python3.11 python3.12 python3.13 python3.14 python3
# The first that runs, is not too old and can create environments.
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in $(PYTHONS); do $$name -c '$(USABLE)' > /dev/null 2>&1 && echo $$name && break; done)
# Index of a build of torch; empty: that of the package index. On Linux the latter has the CUDA build, which is large.
TORCH_INDEX ?= $(shell [ "$$(uname -s)" != Linux ] || command -v nvidia-smi > /dev/null || echo https://download.pytorch.org/whl/cpu)
CORES ?= 2
FAULTS ?= 100
WORKFLOWS ?= 30
VENV := $(CURDIR)/.venv
PIP := $(VENV)/bin/python -m pip install --quiet --constraint constraints.txt
export PATH := $(VENV)/bin:$(PATH)
# Results do not depend on a hub: everything that the demo and the tests need is in the repository.
export HF_HUB_OFFLINE := 1

.PHONY: help install demo test slurm docs nightly soak mutate lint format clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "no Python 3.11 or newer with venv found (tried $(PYTHONS)); name one: make install PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@[ -z "$(TORCH_INDEX)" ] || $(PIP) --quiet --quiet --timeout 10 --retries 1 --no-deps --index-url $(TORCH_INDEX) torch \
	    || echo "No build of torch from $(TORCH_INDEX): the one of the package index is used."
	$(PIP) --editable '.[test]'
	touch $@

demo: install
	snakemake --profile profiles/default --cores $(CORES)
	dplm2 report --results results --out results/report --print

test: install
	python -m pytest --numprocesses $(CORES) --dist loadgroup -m "not slurm"

slurm: install
	python -m pytest -m slurm

docs: install
	sphinx-build --fail-on-warning --keep-going --quiet docs build/docs
	@echo "open build/docs/index.html"

nightly: install
	DPLM2_NIGHTLY=1 python -m pytest -m nightly

soak: install
	python -m benchmarks.soak --workflows $(WORKFLOWS) --at-once $(CORES)

mutate: install
	python -m tests.mutate $(PATHS) --number $(FAULTS)

lint: install
	ruff check . && ruff format --check . && snakefmt --check Snakefile rules && snakemake --lint

format: install
	ruff check --fix . ; ruff format . ; snakefmt Snakefile rules

clean:
	rm -rf results state .snakemake
