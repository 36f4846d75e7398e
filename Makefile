# make demo   sets up everything in .venv and runs the whole workflow on the bundled structures
# make test   sets up everything if need be and runs the test suite
# make mutate PATHS=dplm2/geometry   plants random faults there, one at a time, and lists those that no test notices
PYTHON ?= python3.11
CORES ?= 2
FAULTS ?= 100
VENV := $(CURDIR)/.venv
export PATH := $(VENV)/bin:$(PATH)
# Results do not depend on a hub: everything that the demo and the tests need is in the repository.
export HF_HUB_OFFLINE := 1

.PHONY: help install demo test mutate lint format clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

install: $(VENV)/.installed

# The CPU build of torch is enough here; constraints.txt pins the set of versions that was tested.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

demo: install
	snakemake --profile profiles/default --cores $(CORES)
	dplm2 report --results results --out results/report --print

test: install
	python -m pytest --numprocesses $(CORES) --dist loadgroup

mutate: install
	python -m tests.mutate $(PATHS) --number $(FAULTS)

lint: install
	ruff check . && ruff format --check . && snakefmt --check Snakefile rules && snakemake --lint

format: install
	ruff check --fix . ; ruff format . ; snakefmt Snakefile rules

clean:
	rm -rf results state .snakemake
