"""Times Hugging Face's `generate` on PyTorch. A worker of `generate.py`."""

import functools
import os
import time

import torch
import transformers
import worker


@functools.cache
def model():
    torch.manual_seed(0)
    config = transformers.SwitchTransformersConfig(
        d_ff=3072,
        num_sparse_encoder_layers=6,
        num_sparse_decoder_layers=6,
        decoder_start_token_id=0,
    )
    made = transformers.SwitchTransformersForConditionalGeneration(config).eval()
    made.generation_config.eos_token_id = None
    return made


def versions():
    return {"torch": torch.__version__, "transformers": transformers.__version__}


def prepare(batch, encoder_length, new_tokens):
    """Returns the model's number of parameters, having generated once."""
    seconds(batch, encoder_length, new_tokens)
    return sum(weight.numel() for weight in model().parameters())


def seconds(batch, encoder_length, new_tokens):
    """How long it takes to write so many tokens after each of so many texts."""
    ids = torch.arange(batch * encoder_length).reshape(batch, encoder_length) % 30000 + 2
    start = time.perf_counter()
    outputs = model().generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        num_beams=1,
        max_new_tokens=new_tokens,
    )
    elapsed = time.perf_counter() - start
    if outputs.shape != (batch, 1 + new_tokens):
        raise ValueError(f"{new_tokens} tokens were asked for. Received: {outputs.shape}")
    return elapsed


if __name__ == "__main__":
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    worker.answer({function.__name__: function for function in (versions, prepare, seconds)})
