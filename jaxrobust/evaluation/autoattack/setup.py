"""What an evaluation is about, checked: it does not change while it runs."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh

from jaxrobust import threat
from jaxrobust.array_types import Key, LogitsFn
from jaxrobust.attacks import stepping
from jaxrobust.evaluation import verify
from jaxrobust.evaluation.autoattack import versions
from jaxrobust.evaluation.autoattack.forward import Devices, Forward

# Rows that one device works on together, unless told otherwise.
_SLOTS_ON_CPU, _SLOTS = 64, 256


class Examples(NamedTuple):
    """What is attacked, on the host: N images, labels and keys."""

    x: np.ndarray
    y: np.ndarray
    keys: Key


@dataclasses.dataclass(frozen=True)
class Setup:
    """What does not change while an evaluation runs."""

    logits_fn: LogitsFn
    examples: Examples
    ball: verify.Ball
    plan: versions.Plan
    version: str
    stochastic: bool  # whether the model draws randomness
    draws: int  # that judge an image
    slots: int  # rows that are worked on at a time, at most
    devices: Devices
    second_look: Forward  # the model in batches of another size
    tag: str | None = None  # the user's name for the model

    @property
    def eps(self) -> float:
        """Radius of the ball."""
        assert self.ball.eps is not None
        return self.ball.eps

    def problem(self, stage: versions.Stage) -> dict[str, Any]:
        """Returns what is static about the problem of a stage."""
        return {
            "norm": self.ball.norm,
            "bounds": self.ball.bounds,
            "stochastic": self.stochastic,
            "eot_samples": versions.eot_samples(self.version, self.stochastic),
            "loss": stage.loss,
            "fall_back": True,
        }


def check_call(
    logits_fn: Any,
    x: Any,
    y: Any,
    eps: Any,
    norm: Any,
    version: Any,
    bounds: Any,
    draws: int | None,
    tag: str | None,
) -> None:
    """Checks what `autoattack` is given, before any compute."""
    if not callable(logits_fn):
        raise TypeError(
            "`logits_fn` must be a function from images to logits, got "
            f"{type(logits_fn).__name__}."
        )
    if any(isinstance(value, Tracer) for value in (x, y, eps)):
        raise TypeError(
            "`x`, `y` and `eps` must be concrete: autoattack runs its loop on the "
            "host, call it outside jit, vmap and grad."
        )
    threat.check_one_radius("eps", eps)
    if not float(eps) > 0:
        raise ValueError(f"`eps` must be one positive, finite number, got {eps}.")
    versions.plan(version, norm, 10)
    stepping.check_examples(x, y, bounds)
    if x.ndim != 4:
        raise ValueError(
            f"`x` must have shape [N, H, W, C], got {x.shape}: AutoAttack's Square is "
            "made for images."
        )
    if draws is not None and (not isinstance(draws, int) or draws < 1):
        raise ValueError(f"`draws` must be a whole number of at least 1, got {draws}.")
    if tag is not None and (not isinstance(tag, str) or not tag.strip()):
        raise ValueError(
            "`state_tag` is your name for the model: it must be a text that is not "
            f"empty, or None, got {tag!r}."
        )


def local_mesh() -> Mesh | None:
    """A mesh over this process's devices; None for one device."""
    devices = jax.local_devices()
    if len(devices) == 1:
        return None
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def slots_for(slots: int | None, devices: int, images: int) -> int:
    """Returns how many rows to work on at a time: a multiple of two per device."""
    unit = 2 * devices
    if slots is None:
        on_cpu = jax.local_devices()[0].platform == "cpu"
        # On a CPU devices are parts of one machine.
        slots = _SLOTS_ON_CPU if on_cpu else _SLOTS * devices
        slots = min(slots, max(images, unit))
    elif isinstance(slots, bool) or not isinstance(slots, int) or slots < unit:
        raise ValueError(
            f"`slots` must be a whole number of at least {unit}, two for each of "
            f"{devices} devices, got {slots!r}."
        )
    return max(unit, -(-slots // unit) * unit)


def other_shape(slots: int, devices: int) -> int:
    """Returns a batch size other than `slots` that the devices can share."""
    return max(devices, slots // (2 * devices) * devices)


def clean_logits(forward: Forward, x: np.ndarray, keys: Key) -> np.ndarray:
    """Returns the logits of the clean images; raises where they are not finite."""
    logits = forward(x, keys)
    if bad := int((~np.isfinite(logits).all(-1)).sum()):
        raise ValueError(
            f"the model's logits are not finite for {bad} of {len(x)} clean images: "
            "they are no predictions; check the weights and the normalisation."
        )
    return logits
