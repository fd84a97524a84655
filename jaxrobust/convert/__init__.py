"""Weights of PyTorch networks for ours, and back, and a program for files.

From Python, and from a shell:

    variables = convert.from_torch(model, state_dict)
    state_dict = convert.to_torch(model, variables)
    python -m jaxrobust.convert --help
"""

from jaxrobust.convert._files import Checkpoint as Checkpoint
from jaxrobust.convert._files import read as read
from jaxrobust.convert._to_torch import to_torch as to_torch
from jaxrobust.convert._torch import from_torch as from_torch
from jaxrobust.convert._torch import normalization_of as normalization_of
