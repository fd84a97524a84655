"""What an evaluation is about, checked: it does not change while it runs."""

import dataclasses
import hashlib
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float, Int

from jaxrobust._checks import check_count, check_function, check_one_radius
from jaxrobust.array_types import Images, Key, Logits, LogitsFn
from jaxrobust.attacks import autoattack_versions as versions
from jaxrobust.attacks import stepping
from jaxrobust.evaluation import step, verify
from jaxrobust.evaluation.autoattack import queue
from jaxrobust.evaluation.network import CompiledNetwork
from jaxrobust.evaluation.setting import Devices

# Rows that one device works on together, unless told otherwise.
_SLOTS_ON_CPU, _SLOTS = 64, 256


class Examples(NamedTuple):
    """What is attacked, on the host: N images, labels and keys."""

    x: np.ndarray
    y: np.ndarray
    keys: Key


@dataclasses.dataclass(frozen=True)
class Setup:
    """What does not change while an evaluation runs.

    `second_look` is the model in batches of another size: it judges every adversarial
    image, whatever the attack that made it has seen: `attacked`, the model or what
    comes near it and is faster.
    """

    logits_fn: LogitsFn
    examples: Examples
    ball: verify.Ball
    plan: versions.Ensemble
    version: str
    stochastic: bool  # whether the model draws randomness
    draws: int  # that judge an image
    slots: int  # rows that are worked on at a time, at most
    balanced: bool  # whether a stage of few items takes fewer
    devices: Devices
    second_look: CompiledNetwork
    attacked: LogitsFn
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

    def slots_of(self, items: int) -> int:
        """Returns in how many slots so many items are worked on."""
        if not self.balanced:
            return self.slots
        return queue.balanced(items, self.slots, 2 * self.devices.count)

    def stands(
        self, numbers: Int[np.ndarray, "n"], x_adv: Float[np.ndarray, "n H W C"]
    ) -> Bool[np.ndarray, "n"]:
        """Returns which adversarial images stand, given the numbers of their images.

        They are inside ball and bounds, measured in float64, and the second look gives
        them finite logits of another class.
        """
        if not len(numbers):
            return np.zeros(0, bool)
        outside = verify.measure(x_adv, self.examples.x[numbers], self.ball)[1]
        logits = self.second_look(x_adv)
        wrong = logits.argmax(-1) != self.examples.y[numbers]
        return ~outside & wrong & np.isfinite(logits).all(-1)

    def correct_share(
        self, numbers: Int[np.ndarray, "n"], x: Float[np.ndarray, "n H W C"]
    ) -> Float[np.ndarray, "n"]:
        """Returns in which share of fresh draws a randomised model is right, per image.

        `x` are the images `numbers`, as they are or attacked.
        """
        right, keys = np.zeros(len(x)), self.examples.keys[numbers]
        for draw in range(self.draws if len(x) else 0):
            logits = self.second_look(x, step.fresh_keys(keys, draw))
            if not np.isfinite(logits).all():
                raise ValueError(
                    "the model's logits are not finite in one of its draws: they are "
                    "no predictions; check the model's noise."
                )
            right += logits.argmax(-1) == self.examples.y[numbers]
        return right / self.draws

    def fingerprint(self) -> str:
        """Names model, images, labels, keys and settings.

        Raises:
          ValueError: where only the user can say which model this is.
        """
        x, y, keys = self.examples
        options = {"stochastic": self.stochastic}
        model = self.logits_fn, x[:2]
        if self.tag is None and (found := stepping.calls_on_host(*model, **options)):
            raise ValueError(
                f"`state_dir`: the model calls the host ({', '.join(found)}), so its "
                "program does not tell it from another model whose state may lie "
                "there. Give it a name that is its own, state_tag='my model, weights "
                "of May 3', or leave `state_dir` out."
            )
        digest = hashlib.sha256()
        for array in (x, y, np.asarray(jax.random.key_data(keys))):
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        config: Any = jax.config
        precision = config.jax_default_matmul_precision
        fixed = (self.eps, self.ball.norm, self.ball.bounds)
        fixed = (*fixed, self.version, self.draws, precision, self.tag)
        if self.attacked is not self.logits_fn:
            fixed = (*fixed, step.FAST)
        digest.update(repr(fixed).encode())
        digest.update(stepping.fingerprint(*model, **options).encode())
        return digest.hexdigest()


def check_call(
    logits_fn: Any,
    x: Any,
    y: Any,
    ball: verify.Ball,
    *,
    version: Any,
    draws: int | None,
    tag: str | None,
) -> None:
    """Checks what `autoattack` is given, before any compute."""
    eps: Any = ball.eps
    check_function(logits_fn)
    if any(isinstance(value, Tracer) for value in (x, y, eps)):
        raise TypeError(
            "`x`, `y` and `eps` must be concrete: autoattack runs its loop on the "
            "host, call it outside jit, vmap and grad."
        )
    check_one_radius("eps", eps)
    if not float(eps) > 0:
        raise ValueError(f"`eps` must be one positive, finite number, got {eps}.")
    versions.plan(version, ball.norm, 10)
    stepping.check_examples(x, y, ball.bounds)
    if draws is not None:
        check_count("draws", draws, 1)
    if tag is not None and (not isinstance(tag, str) or not tag.strip()):
        raise ValueError(
            "`state_tag` is your name for the model: it must be a text that is not "
            f"empty, or None, got {tag!r}."
        )


def as_images(
    logits_fn: LogitsFn, x: Float[np.ndarray, "N ..."]
) -> tuple[LogitsFn, Float[np.ndarray, "N H W C"]]:
    """Returns rows of any shape as images, which Square needs, and the model of them.

    Vectors `[N, D]` and sequences `[N, L, C]` are laid out in reading order as a
    rectangle, as square as their length allows; slices of volumes stand one above the
    other. Where an attack does not ask for neighbours nothing is changed by that.
    """
    shape = x.shape[1:]
    if len(shape) == 3:
        return logits_fn, x
    *places, channels = (*shape, 1) if len(shape) == 1 else shape
    count = math.prod(places)
    width = places[-1]
    if len(places) == 1:
        width = next(w for w in range(math.isqrt(count), 0, -1) if count % w == 0)

    def on_images(images: Images, *keys: Key) -> Logits:
        return logits_fn(images.reshape(-1, *shape), *keys)

    return on_images, x.reshape(-1, count // width, width, channels)


def slots_for(slots: int | None, devices: int, images: int) -> int:
    """Returns how many rows to work on at a time: a multiple of two per device."""
    unit = 2 * devices
    if slots is None:
        on_cpu = jax.local_devices()[0].platform == "cpu"
        # On a CPU devices are parts of one machine.
        slots = _SLOTS_ON_CPU if on_cpu else _SLOTS * devices
        slots = min(slots, max(images, unit))
    else:
        # Two for each device.
        check_count("slots", slots, unit)
    return max(unit, -(-slots // unit) * unit)
