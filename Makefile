PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/lock.txt
READY := $(VENV)/.ready

# Backend-independent tests, run a second time on the JAX backend.
JAX_TESTS := $(wildcard \
	tests/grouped_matmul_test.py \
	tests/switch_dense_test.py \
	tests/switch_transformer_block_test.py)

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help venv test lint test-tensorflow test-jax test-oldest pretrain bench prove lock bazel clean

help:
	@echo "make venv      set up $(VENV), pinned by $(LOCK)"
	@echo "make test      lint and run the tests on the TensorFlow and the JAX backend"
	@echo "make pretrain  train a small Switch Transformer on real text and export it"
	@echo "make bench     measure the layer against its peers"
	@echo "make prove     slower proofs, each in an environment of its own"
	@echo "make bazel     check BUILD with a real Bazel"
	@echo "make lock      resolve $(LOCK) anew"
	@echo "make clean     remove everything that make made"

venv: $(READY)

$(READY): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed. Received: PYTHON=$(PYTHON)," \
			"`$(PYTHON) --version 2>&1`. Name another one: make PYTHON=python3.12 ..." >&2; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(LOCK) -e '.[dev]'
	@touch $@

test: lint test-tensorflow test-jax

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test-tensorflow: $(READY)
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile

test-jax: $(READY)
	$(if $(JAX_TESTS),KERAS_BACKEND=jax $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile $(JAX_TESTS))

# The oldest TensorFlow that the package allows.
test-oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check \
		-c requirements/oldest.txt -e '.[dev]'
	KERAS_BACKEND=tensorflow .venv-oldest/bin/python -m pytest -n auto --maxprocesses=4 --dist=loadfile

pretrain: $(READY)
	$(BIN)/keras-switch pretrain

bench: $(READY)
	$(BIN)/python benchmarks/layer.py

prove: $(READY) test-oldest
	bash prove/run

bazel: $(READY)
	bash third_party/bazel/check

lock:
	$(PYTHON) tools/lock.py $(LOCK)

clean:
	rm -rf $(VENV) .venv-* build dist runs *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
