"""How networks compute, apart from what they compute."""

import dataclasses
from typing import Any

DType = Any


@dataclasses.dataclass(frozen=True)
class Computing:
    """How a network computes; its variables, and up to rounding its results, stay.

    Attributes:
      dtype: to compute in, such as `bfloat16`; by default that of input and parameters
        together. Parameters, statistics and logits stay float32.
      remat: compute blocks again in the backward pass, which keeps their inputs only
        and costs one more forward pass of each.
      loop_safe: convolutions whose gradients stay fast in CPU loops; they have no
        forward mode, which False allows.
    """

    dtype: DType = None
    remat: bool = False
    loop_safe: bool = True


AS_USUAL = Computing()
