# The developer's interface. Every target makes what it needs; only Python 3.11 or 3.12 and make are required.
#
#   make demo         two regions, two prompts, what the split saved
#   make test         style, types, and all tests but the long matrices
#   make acceptance   the long matrices
#   make docs         the documentation as a site, in build/site
#   make lint         style and types only
#   make format       rewrite the code in the project's style
#   make kubectl      kustomize, which some of the tests want and are skipped without
#   make clean        remove the virtual environment and caches (models stay in their cache)
#
# PYTHON=python3.12        another interpreter for the virtual environment
# TORCH_INDEX=<url>        an additional package index for PyTorch: see README, "Installing"

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test acceptance docs lint format clean venv kubectl
.DEFAULT_GOAL := demo

demo: venv
	$(BIN)/wanspec demo

# What computes runs on all cores; of what runs servers two files at a time; what measures their times runs alone.
SERVERS := $(BIN)/pytest tests/conformance tests/integration
test: lint
	$(BIN)/pytest tests/unit tests/simulation -m "not acceptance" --numprocesses logical --maxprocesses 4
	$(SERVERS) -m "not acceptance and not alone" --numprocesses logical --maxprocesses 2 --dist loadfile
	$(SERVERS) -m "alone and not acceptance"

acceptance: venv
	$(BIN)/pytest -m acceptance --timeout 3600 tests

# The variable silences an advertisement for another generator.
docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

kubectl: venv
	$(BIN)/python tests/fetch_kubectl.py

venv: $(INSTALLED)

ifndef LOCKED
# One `make` at a time makes the environment, where the system has flock; another then finds it made.
$(INSTALLED): pyproject.toml constraints.txt
	$(if $(shell command -v flock),flock Makefile) $(MAKE) --no-print-directory LOCKED=yes $(INSTALLED)
else
# PyTorch first and alone: only it comes from TORCH_INDEX.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(PIP) install -c constraints.txt -e '.[local,openai,dev,docs]'
	touch $@
endif

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
