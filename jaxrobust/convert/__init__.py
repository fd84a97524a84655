"""Weights of PyTorch networks for ours: `from_torch`, and a program for files.

From Python, and from a shell:

    variables = convert.from_torch(model, state_dict)
    python -m jaxrobust.convert --help
"""

from jaxrobust.convert._torch import from_torch as from_torch
