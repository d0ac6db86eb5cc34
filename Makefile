# `make sample` and `make test` set up .venv where it is missing or out of date, then work.
SYSTEM ?= AA
N ?= 2000
OUT ?=
ARGS ?=
# `make test` runs whole files side by side, each process with one thread
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -gt 4 ] && echo 4 || echo $$n)
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
	&& echo $$p && break; done)

VENV := .venv
BIN := $(VENV)/bin
SETUP := pyproject.toml setup.py constraints.txt
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: sample test clean
.DELETE_ON_ERROR:

sample: $(VENV)/.sample-installed
	@$(BIN)/gensci sample --system "$(SYSTEM)" --num-samples $(N) $(if $(OUT),--out "$(OUT)") $(ARGS)

test: $(VENV)/.test-installed
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(if $(ARGS),$(ARGS),-n $(JOBS) --dist loadfile)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "gensci needs Python 3.11, 3.12 or 3.13 on the PATH" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.sample-installed: $(SETUP) | $(BIN)/python
	$(INSTALL) -e '.[peptides,materials,molecules,posterior]'
	@touch $@

$(VENV)/.test-installed: $(SETUP) | $(BIN)/python
	$(INSTALL) -e '.[peptides,materials,molecules,evaluation,posterior,train,report,dev]'
	@touch $@ $(VENV)/.sample-installed

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
