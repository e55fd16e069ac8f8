"""Make a folder of `keras_switch/models/pretrained` of a run of `keras-switch pretrain`.

    python tools/make_pretrained.py runs/switch_micro_english

The folder has the name of the run's directory. Its weights are bfloat16; they were trained in
float32. Its card tells what the run has recorded, and how the model fills some blanks.
"""

import argparse
import csv
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_switch import atomic  # noqa: E402
from keras_switch import models  # noqa: E402

PRETRAINED = pathlib.Path(__file__).parents[1] / "keras_switch" / "models" / "pretrained"
TEXTS = (
    "The Congress of the United States <extra_id_0> the power to declare war.",
    "We must protect the rights of <extra_id_0> citizens.",
    "He looked at <extra_id_0> and said nothing.",
    "It was one of the <extra_id_0> important questions of the day.",
    "This function returns a list of <extra_id_0> in the directory.",
    "The <extra_id_0> of the ship stood on the deck.",
)
CARD = """# {name}

A Switch Transformer of {parameters:,} parameters, {num_layers} + {num_layers} blocks, with
{num_experts} experts in every other one, which fills blanks in English text:

    keras-switch generate --model={name} "The <extra_id_0> of the United States"

    from keras_switch import models
    model = models.SwitchSeq2SeqLM.from_preset("{name}")

It was trained on the corpus of `tools/make_english.py`: presidents' addresses, novels, manuals and
quotations of a dictionary. [The corpora](../../../data/corpora/README.md) tells their sources and
licences. It was made by

    python tools/make_english.py english.txt
    keras-switch pretrain --config={config} \\
        --corpus=english.txt --output_dir=runs/{name}
    python tools/make_pretrained.py runs/{name}

After {epochs} epochs of {steps_per_epoch} steps, seed {seed}: {nats:.2f} nats a token on held-out
text of {inputs_length} tokens, and {shuffled:.2f} with the encoder's inputs of another text. What
it fills blanks with:

| text | fillings |
| --- | --- |
{rows}

What it cannot do: it knows next to nothing of the world, and names and numbers are guesses. It
reads {inputs_length} tokens at most. It has not been trained to follow instructions or to hold a
conversation. Its text is of the past and of manuals, and so are its prejudices. It is meant for
trying things out: generation, fine-tuning, serving.
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=pathlib.Path)
    run = parser.parse_args().run
    settings = json.loads((run / "config.json").read_text())["settings"]
    with open(run / "history.csv", newline="") as file:
        *_, last = csv.DictReader(file)
    model = models.SwitchSeq2SeqLM.from_preset(str(run / "model"), dtype="bfloat16")
    rows = []
    for text, [candidates] in zip(TEXTS, models.fill_blanks(model, list(TEXTS)), strict=True):
        found = ", ".join(f"{filling} ({share:.0%})" for filling, share in candidates)
        rows.append(f"| {text} | {found} |".replace("<", "\\<"))
    name, settings["corpus"] = run.resolve().name, "english.txt"
    folder = PRETRAINED / name
    card = CARD.format(
        name=name,
        config=(folder / "pretrain.json").relative_to(PRETRAINED.parents[2]),
        parameters=model.count_params(),
        nats=float(last["val_nats_per_token"]),
        shuffled=float(last["val_shuffled_nats_per_token"]),
        rows="\n".join(rows),
        **settings,
    )
    with atomic.whole(folder, replaces_folder=True) as beside:
        model.save_to_preset(str(beside))
        (beside / "README.md").write_text(card, encoding="utf-8")
        (beside / "pretrain.json").write_text(json.dumps(settings, indent=2) + "\n")
    print(card)


if __name__ == "__main__":
    main()
