"""Training against several norms at once."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust import losses, threat
from jaxrobust._checks import NORMS, check_choice, check_count
from jaxrobust.array_types import Images, Key, LogitsFn, Norm, PerExample
from jaxrobust.defenses import base
from jaxrobust.defenses.base import Batch, ModelState, Params

MIXES = ("max", "avg", "random", "msd")
# Steps that cross the radius two and a half times, as Madry et al. choose them.
_REACH = 2.5


class NormBall(NamedTuple):
    """One threat, and the length of a step in it."""

    norm: Norm
    eps: float
    step_size: float


def multi_norm(
    model: nn.Module,
    *,
    attack: Mapping[str, Any],
    norms: Sequence[Norm] = ("linf", "l2", "l1"),
    radii: Sequence[float] = (8 / 255, 0.5, 12.0),
    mix: str = "max",
    attack_bn: str = "eval",
    label_smoothing: float = 0.0,
) -> base.Defense:
    """Cross-entropy on images attacked in several balls.

    Args:
      model: a Linen module.
      attack: `steps` and `bounds` count; a step is 2.5 eps / steps long.
      norms: of the balls.
      radii: theirs, in that order.
      mix: `max`, the worst of PGD's images in each ball (Tramer and Boneh, NeurIPS
        2019, arXiv 1904.13000, section 3); `avg`, the mean over all of them (there);
        `random`, those of one ball per batch, at even odds (with Linf and L1 alone the
        E-AT of Croce and Hein, ICML 2022, arXiv 2105.12508, but for its odds); `msd`,
        one attack whose steps go, image by image, into the ball where the loss is
        highest (Maini et al., ICML 2020, arXiv 1909.04068, algorithm 1).
      attack_bn: see `base.seen_fn`.
      label_smoothing: share of the uniform distribution in the labels.

    Raises:
      ValueError: for an unknown norm or mix, or a value out of range.
    """
    check_choice("mix", mix, MIXES)
    check_count("steps", attack["steps"], 1)
    if not norms or len(norms) != len(radii):
        raise ValueError(
            f"`radii` must be one for each of `norms`, got {tuple(radii)} for "
            f"{tuple(norms)}."
        )
    for norm in norms:
        check_choice("norms", norm, NORMS)
    length = _REACH / attack["steps"]
    balls = [NormBall(n, r, length * r) for n, r in zip(norms, radii, strict=True)]
    rest = {k: v for k, v in attack.items() if k not in NormBall._fields}
    each = [
        base.attacker(model, "pgd", {**rest, **ball._asdict()}, attack_bn)
        for ball in balls
    ]
    bounds = attack.get("bounds", (0.0, 1.0))
    walk = functools.partial(_msd, balls, attack["steps"], bounds)
    prepare = _preparer(model, attack_bn, mix, each, walk)

    def loss(
        params: Params, state: ModelState, batch: Batch, key: Key, step: Array
    ) -> base.PhaseResult:
        total, right = jnp.float32(0), jnp.float32(0)
        seen = sorted(name for name in batch if name.startswith("attacked"))
        # Pass after pass: BatchNorm's statistics are those of one kind of images.
        for name in seen:
            out, state = base.forward(model, params, state, batch[name], key)
            y = base.targets(batch)
            total += base.smoothed_cross_entropy(out.logits, y, label_smoothing)
            right += base.accuracy(out.logits, batch["label"])
        metrics = {"robust_accuracy": right / len(seen)}
        return total / len(seen), (state, metrics)

    return base.Defense((base.Phase(loss, prepare),), mixes=True)


Loss = Callable[[Images], PerExample]


def _preparer(
    model: nn.Module,
    attack_bn: str,
    mix: str,
    each: Sequence[base.Prepare],
    walk: Callable[[Loss, Images], Images],
) -> base.Prepare:
    """Returns a `prepare` that makes `attacked`, or of `avg` one per ball."""

    def prepare(
        params: Params, state: ModelState, batch: Batch, key: Key, step: Array
    ) -> Mapping[str, Array]:
        given = (params, state, batch, key, step)
        value = _loss(base.attacked_fn(model, params, state, key, attack_bn), batch)
        if mix == "msd":
            return {"attacked": walk(value, batch["image"])}
        if mix == "random":
            # Streams 1 and 2 of this key are dropout's and a drawn radius's.
            chosen = jax.random.randint(jax.random.fold_in(key, 3), (), 0, len(each))
            return jax.lax.switch(chosen, [lambda one=one: one(*given) for one in each])
        made = [one(*given)["attacked"] for one in each]
        if mix == "avg":
            return {f"attacked{n}": images for n, images in enumerate(made)}
        return {"attacked": _worst(made, [value(images) for images in made])[0]}

    return prepare


def _loss(logits_fn: LogitsFn, batch: Batch) -> Loss:
    return lambda x: losses.cross_entropy(logits_fn(x), base.targets(batch))


def _worst(
    images: Sequence[Images], values: Sequence[PerExample]
) -> tuple[Images, PerExample]:
    """Per example, the images of the highest value, and that value."""
    best, top = images[0], values[0]
    for other, value in zip(images[1:], values[1:], strict=True):
        rows = (value > top).reshape(-1, *[1] * (other.ndim - 1))
        best, top = jnp.where(rows, other, best), jnp.maximum(value, top)
    return best, top


def _msd(
    balls: Sequence[NormBall],
    steps: int,
    bounds: tuple[float, float],
    value: Loss,
    x: Images,
) -> Images:
    """Multi steepest descent: of all iterates the one of the highest loss."""

    def step(_: Array, carry: tuple[Images, Images, PerExample]) -> Any:
        x_adv, best, top = carry
        grad = jax.grad(lambda z: value(z).sum())(x_adv)
        moved = []
        for norm, eps, size in balls:
            there: Any = {"norm": norm, "bounds": bounds}
            point = threat.steepest_step(x_adv, grad, step_size=size, **there)
            moved.append(threat.project(point, x, eps=eps, **there))
        x_adv, now = _worst(moved, [value(point) for point in moved])
        return x_adv, *_worst([best, x_adv], [top, now])

    return jax.lax.fori_loop(0, steps, step, (x, x, value(x)))[1]
