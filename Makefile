# `make` lists the targets. Everything is installed into .venv; nothing outside this folder is touched.
PYTHON ?= python3
VENV   ?= .venv
STAMP  := $(VENV)/.installed
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
# Compiled Python files are kept even where the environment says otherwise: the tests start hundreds of interpreters.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test costs explore mutants promises fuzz pictures soak check model results bench compare format clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP)  ## a simulated plant, a private broker, a model and the pipeline; all under ./demo-data
	$(BIN)/thrumcast demo

test: $(STAMP)  ## the tests, with a real broker; a worker per processor and one more, the same examples every time
	$(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist worksteal

costs: $(STAMP)  ## the tests, and the CPU time of each folder, file and test
	$(BIN)/python tests/harness/costs.py

explore: $(STAMP)  ## the property tests with new examples for MINUTES=60, in random order
	$(BIN)/python tests/harness/explore.py --minutes $(MINUTES) $(WHERE)

EACH ?= 12
mutants: $(STAMP)  ## small faults in the code: a score per folder of how many the tests notice (EACH=12 of each)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'cosmic-ray>=8.7'
	nice $(BIN)/python tests/harness/mutants.py --each $(EACH) $(FOLDERS)

promises: $(STAMP)  ## every promise in its long form (half an hour); figures in build/promises.txt
	@mkdir -p build && rm -f build/promises.txt
	THRUMCAST_PROMISES=build/promises.txt $(BIN)/python -m pytest -q -m "slow or not slow" tests/promises

fuzz: $(STAMP)  ## a coverage-guided fuzzer on the codec, a million payloads
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'atheris>=3'
	PYTHONPATH=. $(BIN)/python tests/harness/fuzz_codec.py -runs=1000000

pictures: $(STAMP)  ## the pictures of docs/page.md, from a demo in a browser (needs chromium)
	THRUMCAST_PICTURES=docs/img $(BIN)/python -m pytest -q -m slow tests/page/test_browser.py -k "desk_and_phone"

MINUTES ?= 60
soak: $(STAMP)  ## the plain load for MINUTES=60, watched; figures and plot in build/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[plots]'
	$(BIN)/python -m benchmarks.studies.soak --minutes $(MINUTES) --out build

check: $(STAMP)  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy pipeline models sim

model: $(STAMP)  ## train the model that ships with the package anew (minutes)
	$(BIN)/python -m benchmarks.studies.pretrain

results: $(STAMP)  ## what physics alone and the models reach on real recordings (needs them in ../shared/data)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[results]'
	$(BIN)/python -m benchmarks.envelope
	$(BIN)/python -m benchmarks.results --markdown docs/results-table.md

bench: $(STAMP)  ## the measured table
	$(BIN)/python -m benchmarks

# What cannot be installed is left out of the table, with the reason.
compare: $(STAMP)  ## the feature stage beside other libraries (installs them: 800 MB, most of it MKL)
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[compare]'
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps aeon
	$(BIN)/python -m benchmarks.compare
	$(BIN)/python -m benchmarks.clients

format: $(STAMP)  ## put the code into the one format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove what make and the demo have made
	rm -rf $(VENV) build dist demo-data .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# The stamp is newer than the files that say what is installed, or it is made again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "thrumcast needs Python 3.11 or newer, found: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "hint: name a newer one, for instance: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,test,check,plots,formats,opcua,onnx]'
	@touch $@
