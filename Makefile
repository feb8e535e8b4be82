# Everything runs in .venv, which is made when it is not there or older than what it is made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# pyenv's python3.13 answers only where pyenv was told to; its own folder has it all the same.
INTERPRETER := $(shell $(PYTHON) -c 'import sys; print(sys.executable)' 2>/dev/null \
	|| ls -d "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/*/bin/$(PYTHON) 2>/dev/null | tail -n 1)
$(if $(INTERPRETER),,$(error no $(PYTHON) on this machine; say which: make test PYTHON=/path/to/python3))

# The versions that were tested together with this Python; another Python takes the newest of everything.
VERSION := $(shell $(INTERPRETER) -c 'import sys; print("%d%d" % sys.version_info[:2])')
READY := $(VENV)/.ready-$(VERSION)
CONSTRAINTS := $(wildcard constraints/py$(VERSION).txt)
CONSTRAIN := $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
# CompressAI holds numpy below 2, and has no build for Python 3.13: it is installed on 3.11 and 3.12.
comma := ,
EXTRAS := dev,huggingface$(if $(filter 311 312,$(VERSION)),$(comma)compressai)

.PHONY: demo test lint format bench dist docs storm clean

# Encode, train and evaluate on the built-in sample data: no network, no images of your own.
demo: $(READY)
	$(BIN)/ci2p encode --dataset sample --out demo/cache
	$(BIN)/ci2p train --shards demo/cache --recipe quick --out demo/run
	$(BIN)/ci2p eval --checkpoint demo/run

# One process a core: each of them computes on one thread, and a file's tests stay together, for they share what they make.
test: $(READY)
	$(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Kills, damage, faults and hostile files, tried at random: docs/reliability.md. N tries of each kind.
N ?= 100
SEED ?= 0
storm: $(READY)
	$(BIN)/python -m tests.storm --tries $(N) --seed $(SEED) --table docs/reliability.md

# Cache, encoder and training beside their peers: writes docs/benchmarks.md. DATA/train/CLASS/x.jpg and DATA/val/CLASS/x.jpg;
# MDS=PYTHON, if given, an interpreter that has mosaicml-streaming (benchmarks/reading_mds.py). Needs Python 3.11.
bench: $(READY)
	test -n "$(DATA)" || { echo "say which images: make bench DATA=DIR" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet $(CONSTRAIN) --editable '.[bench]'
	$(BIN)/python benchmarks/run_all.py --data-dir $(DATA) $(if $(MDS),--mds-python $(MDS))

# Source and binary distribution in dist/, looked at by twine and by an install elsewhere (docs/releasing.md).
dist: $(READY)
	rm -rf dist build
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	PYTHON=$(abspath $(BIN)/python) .ci/check-dist dist

# The documentation as a site in site/html, in a small environment of its own: a broken link or anchor ends it.
DOCS := .venv-docs
docs: $(DOCS)/.ready
	$(DOCS)/bin/python docs/pages.py site/pages
	PYTHONPATH=. $(DOCS)/bin/zensical build --clean --strict

$(DOCS)/.ready: pyproject.toml $(CONSTRAINTS)
	$(INTERPRETER) -m venv --clear $(DOCS)
	$(DOCS)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
		| $(DOCS)/bin/python -m pip install --quiet $(CONSTRAIN) --requirement /dev/stdin
	touch $@

$(READY): pyproject.toml $(CONSTRAINTS)
	test "$$($(BIN)/python -c 'import sys; print("%d%d" % sys.version_info[:2])' 2>/dev/null)" = $(VERSION) \
		|| $(INTERPRETER) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet $(CONSTRAIN) torch
	$(BIN)/python -m pip install --quiet $(CONSTRAIN) --editable '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf $(VENV) $(DOCS) demo build dist site *.egg-info
