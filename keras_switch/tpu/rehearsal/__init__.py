"""The train step compiled for a TPU slice without a TPU.

`rehearse.py` is the way in. `train_step.py` makes the step, `compiler.py` compiles it, `hlo.py` and
`hlo_traffic.py` read the program, `chips.py` knows the chips, `search.py` looks for a slice that
fits, and `report.py` prints it; `run.py` does all that in a process of its own.
"""
