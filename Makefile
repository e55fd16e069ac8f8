PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/lock.txt
READY := $(VENV)/.ready

# Backend-independent tests, run a second time on the JAX backend.
JAX_TESTS := $(sort $(wildcard \
	tests/adafactor*_test.py \
	tests/attention_test.py \
	tests/block_*_test.py \
	tests/callbacks_test.py \
	tests/convert_test.py \
	tests/generate_test.py \
	tests/grouped_matmul_test.py \
	tests/huggingface_weights_test.py \
	tests/huggingface_writer_test.py \
	tests/jax_mesh*_test.py \
	tests/layout_test.py \
	tests/losses_test.py \
	tests/mesh_connect_test.py \
	tests/mesh_tensorflow_weights_test.py \
	tests/models_dropless_test.py \
	tests/noise_test.py \
	tests/packed_rows_test.py \
	tests/preprocessor_test.py \
	tests/preset_folders_test.py \
	tests/rehearsal*_test.py \
	tests/relative_position_bias_test.py \
	tests/routing_test.py \
	tests/switch_backbone_test.py \
	tests/switch_dense*_test.py \
	tests/switch_seq_2_seq_lm_test.py \
	tests/switch_text_classifier_test.py \
	tests/switch_tokenizer_test.py \
	tests/switch_transformer_block_test.py \
	tests/t5x_weights_test.py \
	tests/upcycle_test.py))
RESULTS := benchmarks/results
RECORDS := prove/results
PIP := -m pip install --quiet --disable-pip-version-check

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help venv test lint test-tensorflow test-jax test-oldest pretrain bench prove prove-peers \
	prove-models prove-rehearse trillion lock bazel clean

help:
	@echo "make venv      set up $(VENV), pinned by $(LOCK)"
	@echo "make test      lint and run the tests on the TensorFlow and the JAX backend"
	@echo "make pretrain  train a small Switch Transformer on real text and export it"
	@echo "make bench     measure the layer against its peers"
	@echo "make prove     slower proofs, each in an environment of its own"
	@echo "make trillion  compile a step of the paper's largest models for TPU slices"
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
	$(BIN)/python $(PIP) -c $(LOCK) -e '.[dev]'
	@touch $@

test: lint test-tensorflow test-jax

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test-tensorflow: $(READY)
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile

# Most of its time is compilation, which these tests need not optimize.
test-jax: $(READY)
	$(if $(JAX_TESTS),JAX_DISABLE_MOST_OPTIMIZATIONS=1 KERAS_BACKEND=jax $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile $(JAX_TESTS))

# The oldest TensorFlow that the package allows.
test-oldest: .venv-oldest/.ready
	KERAS_BACKEND=tensorflow .venv-oldest/bin/python -m pytest -n auto --maxprocesses=4 --dist=loadfile

.venv-oldest/.ready: pyproject.toml requirements/oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python $(PIP) -c requirements/oldest.txt -e '.[dev]'
	@touch $@

# TensorFlow's TPU build, by the README's recipe.
.venv-prove-tpu/.ready: requirements/prove-tpu.txt requirements/tpu.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP) -r $<
	$(@D)/bin/python $(PIP) --no-deps tensorflow-text==2.20.1 keras-hub==0.32.0 .
	@touch $@

# Other packages, each in an environment of its own.
.venv-prove-%/.ready: requirements/prove-%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP) -r $<
	@touch $@

pretrain: $(READY)
	$(BIN)/keras-switch pretrain

bench: $(READY) .venv-prove-huggingface/.ready
	$(BIN)/python benchmarks/import_time.py --output $(RESULTS)/import_time.md
	$(BIN)/python benchmarks/layer.py --output $(RESULTS)/layer.md
	$(BIN)/python benchmarks/profile_step.py --output $(RESULTS)/profile.md
	$(BIN)/python benchmarks/mesh.py --output $(RESULTS)/mesh.md
	$(BIN)/python benchmarks/train_step.py --output $(RESULTS)/train_step.md
	$(BIN)/python benchmarks/generate.py --output $(RESULTS)/generate.md

prove: $(READY) test-oldest prove-peers prove-models prove-rehearse prove-tpu
	$(BIN)/python -m pytest prove --ignore=prove/rehearse_test.py
	@if command -v bazel >/dev/null; then \
		$(MAKE) bazel; \
	else \
		echo "Bazel is not installed, so BUILD is not checked: see third_party/README.md."; \
	fi

# With the TPU's compiler, which needs no TPU.
prove-rehearse: .venv-prove-rehearse/.ready
	JAX_PLATFORMS=cpu KERAS_BACKEND=tensorflow .venv-prove-rehearse/bin/python -m pytest prove/rehearse_test.py
	JAX_PLATFORMS=cpu KERAS_BACKEND=jax .venv-prove-rehearse/bin/python -m pytest prove/rehearse_test.py

# The TPU program of the TensorFlow backend, which needs no TPU either.
prove-tpu: $(READY) .venv-prove-tpu/.ready .venv-prove-rehearse/.ready
	.venv-prove-tpu/bin/python $(PIP) --no-deps .
	bash prove/run_tpu $(RECORDS)/tpu_program.md

prove-peers: $(READY) .venv-prove-huggingface/.ready .venv-prove-mesh/.ready
	bash prove/run $(RECORDS)/peers.md

# Whole models, on both backends.
prove-models: $(READY) .venv-prove-huggingface/.ready
	bash prove/run_models $(RECORDS)/models.md

# Takes half an hour.
trillion: .venv-prove-rehearse/.ready
	.venv-prove-rehearse/bin/python benchmarks/trillion.py --output $(RESULTS)/trillion.md

bazel: $(READY)
	bash third_party/bazel/check

lock:
	$(PYTHON) tools/lock.py $(LOCK)

clean:
	rm -rf $(VENV) .venv-* build dist runs *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
