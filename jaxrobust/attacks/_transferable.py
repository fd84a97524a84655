"""What the attacks have in common whose images are to fool other models too.

A step follows the momentum of gradients, as `mim` does. Where they are taken (ahead;
around the point), of which views of the image, and how they are smoothed, are parts
that may be combined.
"""

import dataclasses
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust import threat
from jaxrobust._checks import check_images
from jaxrobust.array_types import Images, Labels, LogitsFn, Scalar
from jaxrobust.attacks._ascent import Ascent, Carry, Direction, momentum
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count
from jaxrobust.attacks._objective import Keys, Problem, fold, mean_of
from jaxrobust.attacks._options import TransferOptions
from jaxrobust.attacks._views import Mixed, Resized, Scaled, Views

_NEAR_STREAM = 0x6E6561

# Momentum alone: what each attack changes is its own.
PLAIN: dict[str, Any] = {
    "decay": 1.0,
    "random_start": False,
    "restarts": 1,
    "nesterov": False,
    "neighbours": 0,
    "reach": 1.5,
    "scales": 1,
    "mixed": 0,
    "weight": 0.2,
    "resize": 1.0,
    "share": 0.5,
    "kernel": "none",
    "length": 15,
}


@dataclasses.dataclass(frozen=True)
class Transferable(Ascent):
    """Momentum, with gradients taken ahead or around, of views, and smoothed."""

    norms = ("linf", "l2")

    decay: float = 1.0
    nesterov: bool = False
    neighbours: int = 0
    reach: float = 1.5

    @property
    def needs_key(self) -> str | None:
        """For draws around the point as well."""
        return super().needs_key or ("`neighbours`" if self.neighbours else None)

    def ahead(self, problem: Problem, carry: Carry) -> Images:
        """Where the momentum alone would lead (Lin et al. 2020, equation 6).

        One of numbers of size 1 is as long as a step in any norm.
        """
        if not self.nesterov:
            return carry.x
        x = carry.x
        size = x[0].size ** -0.5 if problem.norm == "l2" else 1.0
        moved: Any = optax.tree_utils.tree_get(carry.direction_state, "trace")
        return x + self.decay * size * threat.per_row(problem.step_size, x) * moved

    def learnt(
        self, problem: Problem, keys: Keys, i: Count, x: Images, grad: Images
    ) -> Any:
        """With neighbours, how much the gradient around the point differs as well.

        As in torchattacks they lie around the point, not ahead, and may leave the box.
        """
        if not self.neighbours:
            return grad
        drawn = fold(keys, _NEAR_STREAM, i)
        length = self.reach * threat.per_row(problem.eps, x)

        def near(s: Count) -> Images:
            own = fold(drawn, s)
            shift = length * threat.in_unit_ball(x, key=own, norm=problem.norm)
            return self.look(problem, own, i, x + shift)[0]

        return grad, mean_of(self.neighbours, near) - grad


def path(
    kernel: str, length: int, decay: float, varied: bool
) -> optax.GradientTransformation:
    """Momentum of gradients that are tuned by their variance, then smoothed."""
    tuned = [variance_tuned()] if varied else []
    smooth = [] if kernel == "none" else [optax.stateless(_Smoothed(kernel, length))]
    return optax.chain(*tuned, *smooth, momentum(decay))


def variance_tuned() -> optax.GradientTransformation:
    """Of pairs, adds the second of the step before to the first (Wang and He 2021)."""

    def init(params: Any) -> Any:
        return jnp.zeros_like(params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        grad, change = updates
        return grad + state, change

    return optax.GradientTransformation(init, update)


@dataclasses.dataclass(frozen=True)
class _Smoothed:
    """Convolves a gradient [H, W, C] with a kernel (Dong et al. 2019, equation 7)."""

    kernel: str
    length: int

    def __call__(self, grad: Any, params: Any = None) -> Any:
        """All three kernels are products of rows and columns; outside are zeros."""
        grad = threat.tamed(grad)
        grad = threat.safe_divide(grad, jnp.max(jnp.abs(grad)))
        down, across = (_band(self.kernel, self.length, n) for n in grad.shape[:2])
        high = jax.lax.Precision.HIGHEST
        return jnp.einsum(
            "ij,jkc,lk->ilc", *(down, grad, across), precision=high
        ).astype(grad.dtype)


def _band(kernel: str, length: int, size: int) -> np.ndarray:
    """The matrix [size, size] that convolves a row with a kernel, zeros around it."""
    half = (length - 1) // 2
    place = np.arange(-half, half + 1)
    weights = {
        # 3 standard deviations to each side.
        "gaussian": np.exp(-0.5 * (3 * place / max(half, 1)) ** 2),
        "uniform": np.ones(length),
        "linear": 1 - np.abs(place) / (half + 1),
    }[kernel]
    far = np.arange(size)[:, None] - np.arange(size)
    inside = np.abs(far) <= half
    return np.where(
        inside, (weights / weights.sum())[np.clip(far + half, 0, length - 1)], 0
    )


def ascend(
    name: str,
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    **options: Unpack[TransferOptions],
) -> Images:
    """Runs the attack that the options make."""
    given: dict[str, Any] = dict(options)
    own = {option: given.pop(option) for option in PLAIN}
    if (others := given.get("others")) is not None:
        given["others"] = _checked(others, x)
    views = (
        *([Mixed(own["mixed"], own["weight"])] if own["mixed"] else []),
        *([Scaled(own["scales"])] if own["scales"] > 1 else []),
        *([Resized(own["resize"], own["share"])] if own["resize"] < 1 else []),
    )
    kernel, length, decay = own["kernel"], own["length"], own["decay"]
    if kernel != "none" and length % 2 == 0:
        raise ValueError(f"`length` of a kernel must be odd, got {length}.")
    if kernel != "none" and getattr(x, "ndim", 4) != 4:
        raise ValueError(f"`kernel` needs images [B, H, W, C], got shape {x.shape}.")
    method = Transferable(
        steps,
        own["restarts"],
        own["random_start"],
        Direction(path, (kernel, length, decay, own["neighbours"] > 0)),
        view=Views(views) if views else None,
        decay=decay,
        nesterov=own["nesterov"],
        neighbours=own["neighbours"],
        reach=own["reach"],
    )
    return iterate(method, logits_fn, x, y, eps, step_size, **given)


def _checked(others: Any, x: Images) -> Images:
    check_images(others, "others", flat=True)
    if others.shape[1:] != x.shape[1:] or not len(others):
        raise ValueError(
            f"`others` must be images like those of `x`, [P, {x.shape[1:]}], got shape "
            f"{others.shape}."
        )
    return jnp.asarray(others)
