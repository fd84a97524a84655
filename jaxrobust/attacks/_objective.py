"""What an attack ascends: a loss of logits, or of the images themselves."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import losses, threat
from jaxrobust._checks import FLOATING, nearest_match
from jaxrobust._shards import varied_alike
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
from jaxrobust.attacks import _jaxprs

# One key per row; None where nothing is drawn.
Keys = Key | None

_NAMED: dict[str, LossFn] = {
    "ce": losses.cross_entropy,
    "margin": losses.margin,
    "dlr": losses.dlr,
}


class RobustnessWarning(UserWarning):
    """A result of an attack is not to be trusted, and why."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OnInput:
    """A loss of the images, `fn(x, y) -> [B]`, rather than of logits.

    For adaptive attacks on anything that is not the logits: auxiliary heads,
    distances to prototypes, restored images. Row i must depend on row i alone.
    """

    fn: Callable[[Images, Labels], PerExample]


on_input = OnInput
Loss = str | LossFn | OnInput


@dataclasses.dataclass(frozen=True)
class Problem:
    """One attack's model, images and threat: a pytree, what is no array is static."""

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
    # Images to mix with, `[P, H, W, C]`.
    others: Images | None = None
    # How the loop over steps is written out; None chooses.
    unroll: int | bool | None = None
    # Look for what an eager call warns about.
    watch: bool = False

    def project(self, x: Images, eps: Any = None) -> Images:
        """Moves points into ball (of another radius, where one is given) and box."""
        eps = self.eps if eps is None else eps
        return threat.project(x, self.x, eps=eps, norm=self.norm, bounds=self.bounds)

    def clean_logits(self, keys: Keys) -> Logits:
        """Logits of the images themselves, which the caller may have given."""
        return mean_logits(self, self.x, keys) if self.clean is None else self.clean

    @property
    def loss_fn(self) -> LossFn | OnInput:
        """The loss as a function."""
        return named(self.loss)

    def seen(self, change: Callable[[Images], Images]) -> "Problem":
        """The problem whose model, and loss of images, see `change(images)`."""
        logits_fn, loss = self.logits_fn, self.loss
        if isinstance(loss, OnInput):
            own = loss.fn
            loss = OnInput(lambda z, y: own(change(z), y))
        return dataclasses.replace(
            self, logits_fn=lambda z, *keys: logits_fn(change(z), *keys), loss=loss
        )


_ARRAYS = ["logits_fn", "x", "y", "eps", "step_size", "loss", "x_init", "clean"]
_ARRAYS += ["others"]
_STATIC = [f.name for f in dataclasses.fields(Problem) if f.name not in _ARRAYS]
jax.tree_util.register_dataclass(Problem, _ARRAYS, _STATIC)


class Evaluated(NamedTuple):
    """Objective `[B]`, higher is better for the attacker, and logits if it has any."""

    value: PerExample
    logits: Logits | None


class Judged(NamedTuple):
    """Objective `[B]`, logits `[B, K]`, success `[B]`."""

    value: PerExample
    logits: Logits
    fooled: jax.Array


def named(loss: Loss) -> LossFn | OnInput:
    """Returns a loss as a function."""
    return _NAMED[loss] if isinstance(loss, str) else loss


def check_loss(loss: object) -> None:
    """Raises unless `loss` is a known name or can be called."""
    if isinstance(loss, str):
        if loss not in _NAMED:
            hint = nearest_match(loss, _NAMED)
            raise ValueError(f"Unknown loss {loss!r}. {hint}")
    elif not callable(loss) and not isinstance(loss, OnInput):
        raise TypeError(
            f"`loss` must be a name ({', '.join(_NAMED)}), a function of (logits, y) "
            f"or attacks.on_input(fn), got {type(loss).__name__}."
        )


def call_model(problem: Problem, x: Images, keys: Keys) -> Logits:
    """Returns comparable logits `[B, K]` of one draw, checking their shape."""
    logits = _called(problem, x, keys)
    check_logits(logits, x.shape[0])
    return losses.comparable(logits)


def logits_dtype(problem: Problem, x: Images, keys: Keys) -> Any:
    """In what precision the model gives its logits."""
    return jax.eval_shape(lambda: _called(problem, x, keys)).dtype


def _called(problem: Problem, x: Images, keys: Keys) -> Any:
    fn = problem.logits_fn
    return fn(x, keys) if problem.stochastic else fn(x)


def mean_logits(problem: Problem, x: Images, keys: Keys) -> Logits:
    """Returns logits `[B, K]`, the mean over `eot_samples` draws."""
    return _mean_over_draws(problem, lambda k: call_model(problem, x, k), keys)


def check_logits(logits: Any, batch: int) -> None:
    """Raises unless logits are one array `[B, K]`."""
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != batch:
        raise ValueError(
            f"`logits_fn` must return logits of shape [B, K] with B = {batch}, got "
            f"{type(logits).__name__ if shape is None else shape}."
        )
    if shape[1] < 2:
        raise ValueError(
            f"`logits_fn` must return logits of two classes at least, got {shape}: of "
            "one class no image is ever misclassified."
        )
    if logits.dtype not in FLOATING:
        raise TypeError(
            f"`logits` must be a floating array [B, K], got {logits.dtype}: return "
            "them in float32."
        )


def objective(
    problem: Problem, x: Images, keys: Keys, *, judge: bool = False
) -> Evaluated:
    """Evaluates the objective at `x`: the loss, negated where targeted.

    With `judge` there are logits even where the loss needs none.
    """
    loss, logits = problem.loss_fn, None
    if judge or not isinstance(loss, OnInput):
        logits = call_model(problem, x, keys)
    if isinstance(loss, OnInput):
        value = loss.fn(x, problem.y)
    else:
        assert logits is not None
        own: Any = getattr(loss, "func", loss)  # of a Partial
        if own is losses.dlr and problem.fall_back and logits.shape[1] < 3:
            loss = losses.margin
        value = loss(logits, problem.y)
    if value.shape != (x.shape[0],):
        raise ValueError(
            f"`loss` must return one value per example, shape ({x.shape[0]},), "
            f"got {value.shape}."
        )
    return Evaluated(-value if problem.targeted else value, logits)


def gradient(
    problem: Problem, x: Images, keys: Keys, *, judge: bool = False
) -> tuple[Images, Evaluated]:
    """Returns the input gradient `[B, H, W, C]` and the evaluation at `x`.

    The loss is summed over the batch, so a row's gradient is its own; with
    `eot_samples` both are means over draws of the model's randomness.
    """

    def total(z: Images, k: Keys) -> tuple[jax.Array, Evaluated]:
        at = objective(problem, z, k, judge=judge)
        return jnp.sum(at.value), at

    grad_fn = jax.grad(total, has_aux=True)
    return _mean_over_draws(problem, lambda k: grad_fn(x, k), keys)


def judged_gradient(problem: Problem, x: Images, keys: Keys) -> tuple[Images, Judged]:
    """Returns `gradient`, and what `evaluate` says at the same draws."""
    grad, at = gradient(problem, x, keys, judge=True)
    return grad, _judged(problem, at)


def evaluate(problem: Problem, x: Images, keys: Keys) -> Judged:
    """Evaluates objective and success at `x`, over `eot_samples` draws.

    Success is a wrong prediction of the mean logits (the target where targeted);
    logits that are not finite never count as success.
    """

    def once(k: Keys) -> Evaluated:
        return objective(problem, x, k, judge=True)

    return _judged(problem, _mean_over_draws(problem, once, keys))


def _judged(problem: Problem, at: Evaluated) -> Judged:
    assert at.logits is not None
    return Judged(at.value, at.logits, succeeds(problem, at.logits))


def succeeds(problem: Problem, logits: Logits) -> jax.Array:
    """Which rows are what the attacker wants, `[B]`, by argmax and nothing else.

    Logits that are not finite never are.
    """
    predicted = jnp.argmax(logits, axis=1)
    hit = predicted == problem.y if problem.targeted else predicted != problem.y
    return hit & jnp.all(jnp.isfinite(logits), axis=1)


def slope(
    problem: Problem, x: Images, shift: Images, length: float, keys: Keys
) -> PerExample:
    """Returns the objective's symmetric difference quotient at `x`, `[B]`.

    Both points, a `shift` of this length ahead and behind, see one randomness of the
    model. What is not finite counts as flat.
    """
    ahead, behind = (evaluate(problem, x + s, keys).value for s in (shift, -shift))
    quotient = (ahead - behind) / (2 * length)
    return threat.tamed(quotient.astype(x.dtype), squared=True)


def fold(keys: Any, *data: int | jax.Array) -> Any:
    """Folds numbers, each one for all or one per row, into every row's key, if any."""
    if keys is None:
        return None
    for number in data:
        axes = (0, 0 if jnp.ndim(number) else None)
        keys = jax.vmap(jax.random.fold_in, axes)(keys, number)
    return keys


def _mean_over_draws(problem: Problem, once: Callable[[Keys], Any], keys: Keys) -> Any:
    """Averages over `eot_samples` draws."""
    count = problem.eot_samples
    if count == 1:
        return once(keys)
    return mean_of(count, lambda s: once(fold(keys, s)))


def mean_of(count: int, draw: Callable[[int | jax.Array], Any]) -> Any:
    """Averages `draw(s)`, trees of arrays: in a loop, unless that would be slow."""
    if count == 1:
        return draw(0)
    if _jaxprs.slow_in_loop(draw, 0):
        draws = [draw(s) for s in range(count)]
        return jax.tree.map(lambda *leaves: sum(leaves) / count, *draws)

    def add(s: jax.Array, total: Any) -> Any:
        return jax.tree.map(jnp.add, total, draw(s))

    first = jax.eval_shape(draw, 0)
    zeros, _ = varied_alike((jax.tree.map(jnp.zeros_like, first), first))
    total = jax.lax.fori_loop(0, count, add, zeros)
    return jax.tree.map(lambda leaf: leaf / count, total)
