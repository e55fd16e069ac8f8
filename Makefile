PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/lock.txt
READY := $(VENV)/.ready

# Tests that take minutes, which `make test-quick` leaves out. BUILD has the same list.
SLOW_TESTS := \
	tests/backends_equal_test.py \
	tests/checkpoint_test.py \
	tests/checkpoint_thread_test.py \
	tests/cli_test.py \
	tests/export_test.py \
	tests/export_formats_test.py \
	tests/fill_blanks_test.py \
	tests/fit_logs_test.py \
	tests/generate_test.py \
	tests/generate_command_test.py \
	tests/guard_test.py \
	tests/guides_test.py \
	tests/inspection_test.py \
	tests/losses_test.py \
	tests/mesh_test.py \
	tests/mesh_optimizers_test.py \
	tests/mesh_state_test.py \
	tests/mesh_uneven_test.py \
	tests/models_mesh_test.py \
	tests/pretrain_test.py \
	tests/quantized_test.py \
	tests/switch_dense_test.py \
	tests/switch_dense_reference_test.py \
	tests/switch_seq_2_seq_lm_test.py \
	tests/switch_transformer_block_test.py

# Backend-independent tests, run a second time on the JAX backend.
JAX_TESTS := $(sort $(wildcard \
	tests/adafactor*_test.py \
	tests/algorithms_test.py \
	tests/attention_test.py \
	tests/balance_over_test.py \
	tests/block_*_test.py \
	tests/callbacks_test.py \
	tests/checkpoint_thread_test.py \
	tests/checks_test.py \
	tests/clone_test.py \
	tests/convert_test.py \
	tests/dtypes_test.py \
	tests/expert_choice_test.py \
	tests/export_formats_test.py \
	tests/fit_logs_test.py \
	tests/fill_blanks_test.py \
	tests/float16_test.py \
	tests/generate_inputs_test.py \
	tests/generate_test.py \
	tests/grouped_matmul_test.py \
	tests/guard_test.py \
	tests/huggingface_tokenizer_test.py \
	tests/huggingface_weights_test.py \
	tests/huggingface_writer_test.py \
	tests/inspection_test.py \
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
	tests/quantized_test.py \
	tests/relative_position_bias_test.py \
	tests/remat_test.py \
	tests/routing_test.py \
	tests/switch_backbone_test.py \
	tests/switch_dense*_test.py \
	tests/switch_seq_2_seq_lm_test.py \
	tests/switch_text_classifier_test.py \
	tests/switch_tokenizer_test.py \
	tests/switch_transformer_block_test.py \
	tests/t5x_weights_test.py \
	tests/tokens_test.py \
	tests/upcycle_test.py))
RESULTS := benchmarks/results
RECORDS := prove/results
PIP := -m pip install --quiet --disable-pip-version-check

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help venv test test-quick lint test-tensorflow test-jax test-oldest test-newest \
	pretrain bench prove prove-rehearse prove-tpu prove-peers prove-models prove-exports prove-data \
	trillion bazel lock clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

venv: $(READY) ## set up .venv, pinned by requirements/lock.txt

$(READY): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed. Received: PYTHON=$(PYTHON)," \
			"`$(PYTHON) --version 2>&1`. Name another one: make PYTHON=python3.12 ..." >&2; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) -c $(LOCK) -e '.[dev]'
	@touch $@

test: lint test-tensorflow test-jax ## lint, and the tests on the TensorFlow and the JAX backend

lint: $(READY) ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test-quick: lint ## lint, and the tests that take seconds, on TensorFlow
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile \
		$(filter-out $(SLOW_TESTS),$(sort $(wildcard tests/*_test.py)))

test-tensorflow: $(READY) ## the tests on the TensorFlow backend
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile

# Most of its time is compilation, which these tests need not optimize.
test-jax: $(READY) ## the tests of both backends on JAX
	$(if $(JAX_TESTS),JAX_DISABLE_MOST_OPTIMIZATIONS=1 KERAS_BACKEND=jax $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile $(JAX_TESTS))

test-oldest: .venv-oldest/.ready ## the tests on the oldest TensorFlow that the package allows
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

# The newest of everything, beyond the package's upper bounds too.
test-newest: ## the tests on the newest release of everything
	rm -rf .venv-newest
	$(PYTHON) -m venv .venv-newest
	$(PYTHON) tools/newest.py > .venv-newest/requirements.txt
	.venv-newest/bin/python $(PIP) -r .venv-newest/requirements.txt
	.venv-newest/bin/python $(PIP) --no-deps -e .
	.venv-newest/bin/python -m pip list --format=freeze | grep -iE '^(jax|keras|numpy|tensorflow)'
	KERAS_BACKEND=tensorflow .venv-newest/bin/python -m pytest -n auto --maxprocesses=4 --dist=loadfile

# Other packages, each in an environment of its own.
.venv-prove-%/.ready: requirements/prove-%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP) -r $<
	@touch $@

pretrain: $(READY) ## train a small Switch Transformer on real text, export it and ask it
	$(BIN)/keras-switch pretrain

bench: $(READY) .venv-prove-huggingface/.ready ## measure the layer and the models against their peers
	$(BIN)/python benchmarks/data.py --output $(RESULTS)/data.md
	$(BIN)/python benchmarks/import_time.py --output $(RESULTS)/import_time.md
	$(BIN)/python benchmarks/layer.py --output $(RESULTS)/layer.md
	$(BIN)/python benchmarks/profile_step.py --output $(RESULTS)/profile.md
	$(BIN)/python benchmarks/mesh.py --output $(RESULTS)/mesh.md
	$(BIN)/python benchmarks/checkpoint.py --output $(RESULTS)/checkpoint.md
	$(BIN)/python benchmarks/train_step.py --output $(RESULTS)/train_step.md
	$(BIN)/python benchmarks/generate.py --output $(RESULTS)/generate.md

prove: $(READY) test-oldest prove-peers prove-models prove-rehearse prove-exports prove-data prove-tpu ## all slower proofs, each in an environment of its own
	$(BIN)/python -m pytest prove --ignore=prove/rehearse_test.py --ignore=prove/exports_test.py \
		--ignore=prove/prepare_test.py
	@if command -v bazel >/dev/null; then \
		$(MAKE) bazel; \
	else \
		echo "Bazel is not installed, so BUILD is not checked: see third_party/README.md."; \
	fi

prove-rehearse: .venv-prove-rehearse/.ready ## prove the rehearsals, with the TPU's compiler
	JAX_PLATFORMS=cpu KERAS_BACKEND=tensorflow .venv-prove-rehearse/bin/python -m pytest prove/rehearse_test.py
	JAX_PLATFORMS=cpu KERAS_BACKEND=jax .venv-prove-rehearse/bin/python -m pytest prove/rehearse_test.py

prove-exports: .venv-prove-exports/.ready ## prove the table of docs/exports.md, by the runtimes of the formats
	KERAS_BACKEND=tensorflow PYTHONPATH=tests .venv-prove-exports/bin/python -m pytest prove/exports_test.py

prove-data: $(READY) .venv-prove-beam/.ready .venv-prove-seqio/.ready ## prove that text is prepared on Apache Beam, and compare the pipeline with T5's own
	bash prove/run_data $(RECORDS)/data.md
	KERAS_BACKEND=tensorflow PYTHONPATH=tests .venv-prove-beam/bin/python -m pytest prove/prepare_test.py

prove-tpu: $(READY) .venv-prove-tpu/.ready .venv-prove-rehearse/.ready ## prove the TPU program of the TensorFlow backend
	.venv-prove-tpu/bin/python $(PIP) --no-deps .
	bash prove/run_tpu $(RECORDS)/tpu_program.md

prove-peers: $(READY) .venv-prove-huggingface/.ready .venv-prove-mesh/.ready ## compare the layer with Hugging Face and Mesh TensorFlow
	bash prove/run $(RECORDS)/peers.md

prove-models: $(READY) .venv-prove-huggingface/.ready ## compare whole models with transformers and KerasHub
	bash prove/run_models $(RECORDS)/models.md

# Takes half an hour.
trillion: .venv-prove-rehearse/.ready ## compile a step of the paper's largest models for TPU slices
	.venv-prove-rehearse/bin/python benchmarks/trillion.py --output $(RESULTS)/trillion.md

bazel: $(READY) ## check BUILD with a real Bazel
	bash third_party/bazel/check

lock: ## resolve requirements/lock.txt anew
	$(PYTHON) tools/lock.py $(LOCK)

clean: ## remove everything that make made
	rm -rf $(VENV) .venv-* build dist runs *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
