"""Random models of transformers, what they compute, and how they load what we write.

python prove/models_reference.py make DIR    # DIR/CASE/ by save_pretrained, DIR/CASE.npz
python prove/models_reference.py load DIR    # loads DIR/CASE-back/, compares with DIR/CASE/

Needs torch and transformers.
"""

import copy
import logging
import pathlib
import sys

import models_names
import numpy as np
import torch
import transformers
from transformers.models.switch_transformers import modeling_switch_transformers as switch
from transformers.utils import logging as hf_logging

PROMPTS, NEW_TOKENS, BEAMS = 64, 64, 4
SIZES = {"vocab_size": 101, "d_model": 36, "d_kv": 20, "num_heads": 3, "d_ff": 50}
OTHERS = {"dropout_rate": 0.0, "decoder_start_token_id": 0}
JITTER = {"router_jitter_noise": 0.0}


def sparse(num_experts, capacity, layers, sparse_layers, **kwargs):
    return {
        "model_type": "switch_transformers",
        "num_experts": num_experts,
        "expert_capacity": capacity,
        "num_layers": layers[0],
        "num_decoder_layers": layers[1],
        "num_sparse_encoder_layers": sparse_layers[0],
        "num_sparse_decoder_layers": sparse_layers[1],
        **JITTER,
        **kwargs,
    }


def dense(layers, **kwargs):
    return {
        "model_type": "t5",
        "num_layers": layers[0],
        "num_decoder_layers": layers[1],
        **kwargs,
    }


# Experts, capacity, blocks of encoder and decoder, sparse blocks of each. No decoder is the deeper
# side: transformers sizes the cache of `generate` by the encoder.
CASES = {
    "every_second": sparse(8, 200, (4, 2), (2, 1)),
    "every_block": sparse(3, 200, (3, 2), (3, 2)),
    "every_third": sparse(4, 200, (6, 3), (2, 1)),
    "untied": sparse(4, 200, (2, 2), (1, 1), tie_word_embeddings=False),
    "drops": sparse(8, 3, (4, 2), (2, 1)),
    "drops_more": sparse(3, 5, (2, 2), (1, 1), d_model=24, d_kv=8),
    "t5_1_0": dense((4, 3)),
    "t5_1_1": dense((3, 2), feed_forward_proj="gated-gelu", tie_word_embeddings=False),
}


def randomise(model, tied):
    """Gives every weight a size that matters, so that models do not write one token for ever."""
    for name, weight in model.named_parameters():
        if name == "decoder.final_layer_norm.weight" and tied:
            torch.nn.init.uniform_(weight, 5.0, 10.0)
        elif "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
        elif "relative_attention_bias" in name:
            torch.nn.init.normal_(weight, std=1.0)
        elif "router" in name:
            torch.nn.init.normal_(weight, std=0.5)
        elif name in ("shared.weight", "lm_head.weight"):
            torch.nn.init.normal_(weight, std=0.3)
        else:
            weight.data.mul_(3.0 if name.endswith("o.weight") else 1.5)


def build(case):
    """Returns the model of a case, and whether its logits use the token embedding."""
    kwargs = {**SIZES, **OTHERS, **case}
    tied = kwargs.get("tie_word_embeddings", True)
    config = transformers.AutoConfig.for_model(**kwargs)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    if not tied and model.lm_head.weight is model.shared.weight:
        # T5's class ties them whatever its config says, until other weights are loaded.
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
        model.all_tied_weights_keys.pop("lm_head.weight")
    model.set_input_embeddings(model.shared)
    randomise(model, tied)
    return model, tied


def make_batch(padded):
    """Token ids, their masks and labels; with padding at the ends if asked for."""
    ids, mask = tokens(4, 140, padded)
    labels, decoder_mask = tokens(4, 30, padded)
    decoder_ids = torch.nn.functional.pad(labels, (1, -1))
    labels = torch.where(decoder_mask > 0, labels, -100)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "decoder_input_ids": decoder_ids,
        "decoder_attention_mask": decoder_mask,
        "labels": labels,
    }


def tokens(batch, length, padded):
    ids = torch.randint(2, SIZES["vocab_size"], (batch, length))
    lengths = torch.randint(length // 3, length + 1, (batch, 1)) if padded else length
    mask = (torch.arange(length) < lengths).int() * torch.ones(batch, 1, dtype=torch.int32)
    return ids * mask, mask


def run(case, seed):
    """Returns the model of a case, and arrays: its inputs, outputs and gradients."""
    torch.manual_seed(seed)
    model, tied = build(case)
    is_sparse, drops = "expert_capacity" in case, case.get("expert_capacity", 200) < 140
    batch = make_batch(padded=not drops)
    kwargs = {"output_router_logits": True} if is_sparse else {}
    outputs = model(**{k: v for k, v in batch.items() if k != "labels"}, **kwargs)
    logits = outputs.logits.flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, batch["labels"].flatten().long())
    arrays = {
        **batch,
        "encoder_states": outputs.encoder_last_hidden_state,
        "logits": outputs.logits,
        "loss": loss,
    }
    total = loss
    if is_sparse:
        arrays.update(router_arrays(model, outputs))
        if drops:  # Without padding, whose logits transformers counts too.
            arrays["router_losses"] = whole = router_losses(model, batch, outputs) - loss
            if case["num_sparse_encoder_layers"] == case["num_sparse_decoder_layers"] == 1:
                total = loss + whole
    total.backward()
    arrays["total_loss"] = total
    weights = dict(model.named_parameters())
    gradients = {k: torch.zeros_like(w) if w.grad is None else w.grad for k, w in weights.items()}
    for kind, tensors in (("weight", weights), ("gradient", gradients)):
        named = models_names.renamed(tensors, tied)
        arrays.update((f"{kind}/{name}", tensor) for name, tensor in named.items())
    if not drops:  # Capacity counts in transformers' encoder; our `generate` has none.
        arrays.update(generate(model))
    return model, {name: array.detach().numpy() for name, array in arrays.items()}


def router_arrays(model, outputs):
    """The logits of each router, and transformers' own formulas on each."""
    arrays = {}
    for side in ("encoder", "decoder"):
        blocks = [i for i, block in enumerate(getattr(model, side).block) if block.is_sparse]
        for i, logits in zip(blocks, getattr(outputs, f"{side}_router_logits"), strict=True):
            p = torch.softmax(logits, dim=-1)
            balance = switch.load_balancing_loss_func(p, logits.argmax(-1))
            arrays[f"router/{side}/{i}"] = logits
            arrays[f"balance/{side}/{i}"] = balance
            arrays[f"z/{side}/{i}"] = switch.router_z_loss_func(logits)
        logits = torch.cat(getattr(outputs, f"{side}_router_logits"), dim=1)
        arrays[f"z/{side}"] = switch.router_z_loss_func(logits)
    return arrays


def router_losses(model, batch, outputs):
    """The loss that transformers gives when asked for the router's losses too."""
    return model(**batch, output_router_logits=True).loss


def generate(model):
    """Prompts, and what greedy and beam search write after them."""
    ids, mask = tokens(PROMPTS, 12, padded=True)
    model.generation_config.eos_token_id = None
    args = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "attention_mask": mask}
    # Ours never writes padding: it has the probability 0.
    args |= {"suppress_tokens": [0], "renormalize_logits": True}
    greedy = model.generate(ids, **args)
    # At one length, by the sum of the log-probabilities.
    beam = model.generate(ids, num_beams=BEAMS, length_penalty=0.0, **args)
    model.generation_config.eos_token_id = 1
    return {"prompts": ids, "prompt_mask": mask, "greedy": greedy, "beam": beam}


def make(directory):
    directory.mkdir()
    for seed, (name, case) in enumerate(CASES.items()):
        model, arrays = run(case, seed)
        if not model.config.tie_word_embeddings:
            # It then has an embedding for each side, and loads no folder that lacks one.
            for side in (model.encoder, model.decoder):
                side.embed_tokens = copy.deepcopy(model.shared)
        model.save_pretrained(directory / name)
        np.savez(directory / f"{name}.npz", **arrays)


class Heard(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def load(directory):
    for name in CASES:
        loaded = [load_one(directory / folder) for folder in (name, f"{name}-back")]
        (theirs, their_logits, their_words), (ours, logits, our_words) = loaded
        if our_words != their_words:
            sys.exit(f"{name}: transformers says {our_words}, and {their_words} of its own.")
        different = [key for key in theirs if not torch.equal(theirs[key], ours[key])]
        if different or theirs.keys() != ours.keys():
            sys.exit(f"{name}: differ after the round trip: {different}")
        if not torch.equal(their_logits, logits):
            sys.exit(f"{name}: the logits differ after the round trip.")
        words = f", and says what it says of its own: {our_words}" if our_words else ""
        print(f"{name}: transformers loads {len(ours)} tensors, bit for bit{words}")


def load_one(folder):
    """Returns the tensors of a folder, what they compute, and the warnings at their loading."""
    heard = Heard()
    logger = hf_logging.get_logger("transformers")
    logger.addHandler(heard)
    model, info = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        folder, output_loading_info=True
    )
    logger.removeHandler(heard)
    faults = {key: list(value) for key, value in info.items() if value}
    if faults:
        sys.exit(f"{folder.name}: transformers found {faults}")
    ids = torch.arange(2, 62).reshape(2, 30)
    logits = model(input_ids=ids, decoder_input_ids=ids).logits
    return model.state_dict(), logits, heard.messages


if __name__ == "__main__":
    {"make": make, "load": load}[sys.argv[1]](pathlib.Path(sys.argv[2]))
