"""What an attack ascends: a loss of logits, or of the images themselves."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import losses, threat
from jaxrobust.array_types import (
    Bounds,
    Images,
    Key,
    Labels,
    Logits,
    LogitsFn,
    LossFn,
    Norm,
    PerExample,
    Scalar,
)

_NAMED: dict[str, LossFn] = {
    "ce": losses.cross_entropy,
    "margin": losses.margin,
    "dlr": losses.dlr,
}


class RobustnessWarning(UserWarning):
    """A result of an attack is not to be trusted, and why."""


@dataclasses.dataclass(frozen=True)
class OnInput:
    """A loss of images rather than of logits; made by `on_input`."""

    fn: Callable[[Images, Labels], PerExample]


def on_input(fn: Callable[[Images, Labels], PerExample]) -> OnInput:
    """Marks `fn(x, y) -> [B]` as a loss of the images.

    For adaptive attacks on anything that is not the logits: auxiliary heads,
    distances to prototypes, restored images. Row i must depend on row i alone.
    """
    return OnInput(fn)


Loss = str | LossFn | OnInput


@dataclasses.dataclass(frozen=True)
class Problem:
    """One attack's model, images and threat, with everything that is static."""

    logits_fn: LogitsFn
    x: Images
    y: Labels
    eps: Scalar
    step_size: Scalar
    norm: Norm = "linf"
    loss: Loss = "ce"
    targeted: bool = False
    bounds: Bounds = (0.0, 1.0)
    stochastic: bool = False
    eot_samples: int = 1
    quantize: bool = False
    # Take the margin where a model has too few classes for the loss.
    fall_back: bool = False
    x_init: Images | None = None
    # Logits of the images themselves, where the caller has them.
    clean: Logits | None = None
    # How clear a success must be, as a share of the largest logit.
    clearance: float = 0.0


class Evaluated(NamedTuple):
    """Objective `[B]` (higher is better for the attacker), logits, success `[B]`."""

    value: PerExample
    logits: Logits | None
    fooled: jax.Array | None


def check_loss(loss: object) -> None:
    """Raises unless `loss` is a known name or can be called."""
    if isinstance(loss, str):
        if loss not in _NAMED:
            hint = threat.nearest_match(loss, _NAMED)
            raise ValueError(f"Unknown loss {loss!r}. {hint}")
    elif not callable(loss) and not isinstance(loss, OnInput):
        raise TypeError(
            f"`loss` must be a name ({', '.join(_NAMED)}), a function of (logits, y) "
            f"or attacks.on_input(fn), got {type(loss).__name__}."
        )


def call_model(problem: Problem, x: Images, keys: Key | None) -> Logits:
    """Returns logits `[B, K]`, checking their shape."""
    fn = problem.logits_fn
    logits = fn(x, keys) if problem.stochastic else fn(x)
    check_logits(logits, x.shape[0])
    return logits


def mean_logits(problem: Problem, x: Images, keys: Key | None) -> Logits:
    """Returns logits `[B, K]`, the mean over `eot_samples` draws."""
    if problem.eot_samples == 1:
        return call_model(problem, x, keys)
    draws = range(problem.eot_samples)
    return _mean([call_model(problem, x, fold(keys, s)) for s in draws])


def check_logits(logits: Any, batch: int) -> None:
    """Raises unless logits are one array `[B, K]`."""
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != batch:
        raise ValueError(
            f"`logits_fn` must return logits of shape [B, K] with B = {batch}, got "
            f"{type(logits).__name__ if shape is None else shape}."
        )


def objective(
    problem: Problem, x: Images, keys: Key | None, *, judge: bool = False
) -> Evaluated:
    """Evaluates the objective at `x`: the loss, negated where targeted.

    With `judge` there are logits even where the loss needs none.
    """
    logits = None
    if judge or not isinstance(problem.loss, OnInput):
        logits = call_model(problem, x, keys)
    if isinstance(problem.loss, OnInput):
        value = problem.loss.fn(x, problem.y)
    else:
        assert logits is not None
        value = _loss_of_logits(problem, logits.shape[1])(logits, problem.y)
    if value.shape != (x.shape[0],):
        raise ValueError(
            f"`loss` must return one value per example, shape ({x.shape[0]},), "
            f"got {value.shape}."
        )
    return Evaluated(-value if problem.targeted else value, logits, None)


def _loss_of_logits(problem: Problem, classes: int) -> LossFn:
    loss = problem.loss
    assert not isinstance(loss, OnInput)
    if loss == "dlr" and problem.fall_back and classes < 3:
        return losses.margin
    return _NAMED[loss] if isinstance(loss, str) else loss


def gradient(
    problem: Problem, x: Images, keys: Key | None, *, judge: bool = False
) -> tuple[Images, Evaluated]:
    """Returns the input gradient `[B, H, W, C]` and the evaluation at `x`.

    The loss is summed over the batch, so a row's gradient is its own; with
    `eot_samples` both are means over draws of the model's randomness. With `judge`
    the evaluation tells success, as `evaluate` does.
    """

    def total(z: Images, k: Key | None) -> tuple[jax.Array, Evaluated]:
        at = objective(problem, z, k, judge=judge)
        return jnp.sum(at.value), at

    grad_fn = jax.grad(total, has_aux=True)
    if problem.eot_samples == 1:
        grad, at = grad_fn(x, keys)
    else:
        draws = [grad_fn(x, fold(keys, s)) for s in range(problem.eot_samples)]
        grad, at = _mean(draws)
    return grad, _judged(problem, at) if judge else at


def evaluate(problem: Problem, x: Images, keys: Key | None) -> Evaluated:
    """Evaluates objective and success at `x`, over `eot_samples` draws.

    Success is a wrong prediction of the mean logits (the target where targeted);
    logits that are not finite never count as success.
    """

    def once(k: Key | None) -> Evaluated:
        return objective(problem, x, k, judge=True)

    if problem.eot_samples == 1:
        return _judged(problem, once(keys))
    draws = [once(fold(keys, s)) for s in range(problem.eot_samples)]
    return _judged(problem, _mean(draws))


def _judged(problem: Problem, at: Evaluated) -> Evaluated:
    assert at.logits is not None
    return at._replace(fooled=succeeds(problem, at.logits))


def succeeds(problem: Problem, logits: Logits) -> jax.Array:
    """Which rows are what the attacker wants, `[B]`; logits not finite never are."""
    predicted = jnp.argmax(logits, axis=1)
    hit = predicted == problem.y if problem.targeted else predicted != problem.y
    hit &= jnp.all(jnp.isfinite(logits), axis=1)
    if not problem.clearance:
        return hit
    ahead = jnp.abs(losses.margin(logits, problem.y))
    return hit & (ahead > problem.clearance * jnp.max(jnp.abs(logits), axis=1))


def fold(keys: Key | None, data: int | jax.Array) -> Key | None:
    """Folds a number, one for all or one per row, into every row's key."""
    if keys is None:
        return None
    return jax.vmap(jax.random.fold_in, (0, 0 if jnp.ndim(data) else None))(keys, data)


def _mean(draws: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *draws)
