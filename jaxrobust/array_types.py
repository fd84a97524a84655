"""Array types: B batch, H height, W width, C channels, K classes."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from jaxtyping import Array, Float, Int, PRNGKeyArray

Images = Float[Array, "B H W C"]
Labels = Int[Array, "B"]
Distributions = Float[Array, "B K"]  # over classes, in place of labels
Logits = Float[Array, "B K"]
PerExample = Float[Array, "B"]
Scalar = float | Float[Array, ""]
Key = PRNGKeyArray
Variables = Mapping[str, Any]
PyTree = Any
LogitsFn = Callable[..., Logits]
LossFn = Callable[[Logits, Labels], PerExample]
Norm = Literal["linf", "l2", "l1", "l0", "l0_pixels"]
Bounds = tuple[float, float]
