"""Pre-trains with one setting changed at a time, and tells which models read their encoder.

    python benchmarks/recipe.py --output benchmarks/results/recipe.md

Each row is a run of as many steps, with the same seed, on the corpus that comes with the package.
"""

import argparse
import dataclasses
import importlib.metadata
import os
import pathlib

import report

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
from keras import ops  # noqa: E402

from keras_switch.configs import PretrainConfig  # noqa: E402
from keras_switch.data.shuffled_inputs import shuffle_inputs  # noqa: E402
from keras_switch.training import pretrain_data  # noqa: E402
from keras_switch.training import pretrain_fit  # noqa: E402
from keras_switch.training import pretrain_model  # noqa: E402

SCALED = "AdamW scaled by the size of weights, 2e-2"
# What differs from the defaults, by the name of the row.
ROWS = {
    "the defaults": {},
    "learning rate 2e-2": {"learning_rate": 2e-2},
    "Adam, 3e-3": {"optimizer": "adam", "learning_rate": 3e-3},
    SCALED: {"learning_rate": 2e-2},
    "long texts only": {"short_epochs": 0},
    "noise 0.3": {"noise_density": 0.3},
    "2 heads": {"num_heads": 2},
    "half the batch": {"batch_size": 8},
    "1 expert": {"num_experts": 1},
}


class ScaledAdamW(keras.optimizers.AdamW):
    """nanoT5's AdamW, whose updates are multiplied by the root mean square of each matrix."""

    def update_step(self, gradient, variable, learning_rate):
        axes = tuple(range(-min(len(variable.shape), 2), 0))
        size = ops.sqrt(ops.mean(ops.square(variable), axis=axes, keepdims=True))
        rate = ops.cast(learning_rate, "float32") * ops.maximum(size, 1e-3)
        super().update_step(gradient, variable, rate)


def train(config, is_scaled=False):
    """Trains a model; returns it and its tokenizer."""
    keras.utils.set_random_seed(config.seed)
    tokenizer, stages = pretrain_data.prepare(config, pretrain_data.Corpus(config))
    model = pretrain_model.build_and_compile(config, tokenizer.vocabulary_size())
    if is_scaled:
        rate = pretrain_model.make_rate(config)
        optimizer = ScaledAdamW(rate, weight_decay=0.0, epsilon=1e-6, clipnorm=1.0)
        nats = keras.metrics.SparseCategoricalCrossentropy(pretrain_model.NATS, from_logits=True)
        model.compile(optimizer, weighted_metrics=[nats], jit_compile=False)
    for stage, following in zip(stages, [*stages[1:], None], strict=True):
        model.fit(
            stage.train.dataset(),
            initial_epoch=stage.first_epoch,
            epochs=following.first_epoch if following else config.epochs,
            steps_per_epoch=config.steps_per_epoch,
            verbose=2,
        )
    return model, tokenizer


def held_out(config, model, tokenizer, length):
    """Held-out nats at a length, and those with the inputs of another text."""
    config = dataclasses.replace(config, inputs_length=length, short_epochs=0, batch_size=16)
    _, [stage] = pretrain_data.prepare(config, pretrain_data.Corpus(config), tokenizer)
    dataset = pretrain_fit.validation(config, stage)
    for each in (dataset, shuffle_inputs(dataset)):
        yield model.evaluate(each, verbose=0, return_dict=True)[pretrain_model.NATS]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--output", type=pathlib.Path)
    arguments = parser.parse_args()
    with report.Report(arguments.output) as writer:
        versions = ("tensorflow", "keras")
        writer.title("Recipes", {name: importlib.metadata.version(name) for name in versions})
        config = PretrainConfig(epochs=arguments.epochs, short_epochs=arguments.epochs // 2)
        writer.write(
            f"\n{config.epochs * config.steps_per_epoch:,} steps, seed {config.seed}, half of them "
            "on short texts. Held-out nats a token, and how many more they are with the encoder's "
            "inputs of another text: where that is nothing, the decoder does not read its encoder. "
            "Nats are comparable at the same noise.\n"
        )
        writer.head(["", "32 tokens", "more", "128 tokens", "more"])
        for name in arguments.rows:
            changed = dataclasses.replace(config, **ROWS[name])
            model, tokenizer = train(changed, name == SCALED)
            cells = []
            for length in (config.short_inputs_length, config.inputs_length):
                own, others = held_out(changed, model, tokenizer, length)
                cells += [f"{own:.2f}", f"{others - own:.2f}"]
            writer.row([name, *cells])


if __name__ == "__main__":
    main()
