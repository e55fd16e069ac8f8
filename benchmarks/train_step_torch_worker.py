"""Times a training step of transformers' model on PyTorch. A worker of `train_step.py`."""

import torch
import transformers
import worker

STEPS = {}


def versions():
    return {"torch": torch.__version__, "transformers": transformers.__version__}


def prepare(kwargs, batch, length, threads):
    """Builds Switch-Base with 8 experts, and warms up its step.

    Args:
        kwargs: Dictionary of further arguments of the configuration.
        batch: int. Rows.
        length: int. Tokens of a row of the encoder, and of the decoder.
        threads: int. Threads of one operation.

    Returns:
        The number of weights.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    sparse = {f"num_sparse_{side}_layers": 6 for side in ("encoder", "decoder")}
    arguments = {"d_ff": 3072, "decoder_start_token_id": 0, **sparse, **kwargs}
    config = transformers.SwitchTransformersConfig(**arguments)
    model = transformers.SwitchTransformersForConditionalGeneration(config).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, fused=True)
    ids = torch.randint(2, 32000, (3, batch, length))

    def step():
        optimizer.zero_grad()
        outputs = model(
            input_ids=ids[0],
            attention_mask=torch.ones(batch, length),
            decoder_input_ids=ids[1],
            labels=ids[2],
            output_router_logits=True,
            use_cache=False,
        )
        outputs.loss.backward()
        optimizer.step()
        return float(outputs.loss)

    STEPS["train"] = step
    for _ in range(2):
        step()
    return sum(weight.numel() for weight in model.parameters())


def seconds():
    """Returns how long one step takes, and how long all threads work for it."""
    return worker.seconds(STEPS["train"])


if __name__ == "__main__":
    worker.answer({function.__name__: function for function in (versions, prepare, seconds)})
