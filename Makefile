# Everything runs in .venv, which is made when it is not there or older than what it is made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint format bench clean

# Encode, train and evaluate on the built-in sample data: no network, no images of your own.
demo: $(READY)
	$(BIN)/ci2p encode --dataset sample --out demo/cache
	$(BIN)/ci2p train --shards demo/cache --recipe quick --out demo/run
	$(BIN)/ci2p eval --checkpoint demo/run

test: $(READY)
	$(BIN)/pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Cache, encoder and training beside their peers: writes docs/benchmarks.md. DATA/train/CLASS/x.jpg and DATA/val/CLASS/x.jpg;
# MDS=PYTHON, if given, an interpreter that has mosaicml-streaming (benchmarks/reading_mds.py).
bench: $(READY)
	test -n "$(DATA)" || { echo "say which images: make bench DATA=DIR" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/run_all.py --data-dir $(DATA) $(if $(MDS),--mds-python $(MDS))

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,huggingface]'
	touch $@

clean:
	rm -rf $(VENV) demo build *.egg-info
