"""Exports every layer and model in every format, and runs the files by the runtimes of others.

PYTHONPATH=tests python prove/exports.py [docs/exports.md]    # writes the table into the file
"""

import os
import pathlib
import sys
import tempfile

# OpenVINO's converter would otherwise report its use over the network.
sys.modules["openvino_telemetry"] = None
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import export_cases  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import openvino  # noqa: E402
from ai_edge_litert.interpreter import Interpreter  # noqa: E402

START, END = "<!-- table -->\n", "<!-- end of the table -->\n"


def run_onnx(path, arrays):
    session = onnxruntime.InferenceSession(str(path))
    names = [x.name for x in session.get_inputs()]
    return session.run(None, export_cases.by_name(names, arrays))


def run_openvino(path, arrays):
    # By default it computes in bfloat16 where the CPU can.
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(str(path), "CPU", config)
    names = [x.get_any_name() for x in model.inputs]
    fed = export_cases.by_name(names, arrays)
    results = model([fed[name] for name in names])
    # What nobody reads becomes an output, too. Only the model's have a name without a path.
    return [
        np.array(results[number])
        for number, output in enumerate(model.outputs)
        if not all("/" in name for name in output.get_names())
    ]


def run_litert(path, arrays):
    interpreter = Interpreter(model_path=str(path))
    inputs = {x["name"]: x["index"] for x in interpreter.get_input_details()}
    fed = export_cases.by_name(list(inputs), arrays)
    for name, array in fed.items():
        interpreter.resize_tensor_input(inputs[name], array.shape)
    interpreter.allocate_tensors()
    for name, array in fed.items():
        interpreter.set_tensor(inputs[name], array)
    interpreter.invoke()
    return [interpreter.get_tensor(x["index"]) for x in interpreter.get_output_details()]


FORMATS = {
    **export_cases.SAVED_MODELS,
    "onnx": export_cases.keras_format("onnx", "model.onnx", run_onnx),
    "openvino": export_cases.keras_format("openvino", "model.xml", run_openvino),
    "litert": export_cases.keras_format("litert", "model.tflite", run_litert),
}


def cell(name, sizes, format):
    """What the table says of a case: `"equal"`, or what differs or fails."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            error = export_cases.largest_error(name, sizes, FORMATS[format], pathlib.Path(folder))
        except Exception as failure:
            return f"{type(failure).__name__}: {' '.join(str(failure).split())[:120]}"
    return "equal" if error <= export_cases.TOLERANCE else f"differs by {error:.0e}"


def table():
    """Lines of the table, as each cell is done."""
    columns = ", ".join(FORMATS).replace(", ", " | ")
    yield f"| | batch and length | {columns} |\n"
    yield "| --- | --- |" + " --- |" * len(FORMATS) + "\n"
    for name in export_cases.CASES:
        for sizes in export_cases.SIZES:
            cells = [cell(name, sizes, format) for format in FORMATS]
            yield f"| {name} | {sizes} | {' | '.join(cells)} |\n"


def rows(text):
    """The cells of a table in a text: `(case, sizes, format)` and what they say."""
    lines = text.split(START)[1].split(END)[0].splitlines()
    header, _, *lines = ([x.strip() for x in line.strip("| ").split(" | ")] for line in lines)
    for name, sizes, *cells in lines:
        for format, value in zip(header[-len(cells) :], cells, strict=True):
            yield (name, sizes, format), value


def main(path=None):
    lines = []
    for line in table():
        print(line, end="", flush=True)
        lines.append(line)
    if path:
        path = pathlib.Path(path)
        before, rest = path.read_text().split(START)
        path.write_text(before + START + "".join(lines) + END + rest.split(END)[1])


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    main(*sys.argv[1:])
