"""One jitted evaluation step, and what comes of running it over examples."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxrobust import losses, models
from jaxrobust._checks import check_choice
from jaxrobust.array_types import Images, Key, Labels, Logits, LogitsFn, Variables
from jaxrobust.attacks.registry import Attack as Attack
from jaxrobust.evaluation.flags import RaisedFlag

MakeAttack = Callable[[nn.Module, Variables], Attack]
EvalStep = Callable[[Variables, Array, Array, Key], Mapping[str, Array]]

# A randomised network is right about an image in at least so many of its draws.
HALF = 0.5
# A precision of evaluations: AutoAttack's attacks compute in bfloat16 where they can,
# verdicts and all else at the highest.
FAST = "fast"
# Those of JAX, in its names.
PRECISIONS = ("default", "high", "highest", "bfloat16", "tensorfloat32", "float32")
# First of the streams of keys that judge one.
_JUDGE = 0x6A756467


def exact(precision: str) -> str:
    """Returns the precision, in JAX's names, of verdicts.

    Raises:
      ValueError: for an unknown one.
    """
    check_choice("precision", precision, (FAST, *PRECISIONS))
    return "highest" if precision == FAST else precision


class ProgressSink(Protocol):
    """What evaluation reports to while it runs: `runtime.progress.StageProgress`."""

    def update(
        self, done: int, total: int, label: str, values: Mapping[str, float]
    ) -> None:
        """Says that `done` of `total` examples of the stage `label` are through."""

    def close(self) -> None:
        """Ends the display."""


@dataclasses.dataclass(frozen=True)
class EvalRun:
    """What one pass over N examples found.

    `x_adv` are the images asked for, as the network saw them. `distance` is the size of
    each perturbation per norm, empty unless checked. Of an ensemble, `stages` say by
    name what is correct after each of its attacks, `costs` its seconds and model calls,
    `flags` and `notes` what is odd or not as published. Of a randomised network `share`
    are the draws that classify each example as labelled.
    """

    correct: Bool[np.ndarray, "N"]
    predicted: Int[np.ndarray, "N"]
    loss: Float[np.ndarray, "N"]
    logits: Float[np.ndarray, "N K"]
    x_adv: Float[np.ndarray, "keep H W C"]
    distance: Mapping[str, Float[np.ndarray, "N"]]
    stages: Mapping[str, Bool[np.ndarray, "N"]] = field(default_factory=dict)
    costs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    flags: Sequence[RaisedFlag] = ()
    notes: Sequence[str] = ()
    share: Float[np.ndarray, "N"] | None = None

    @property
    def accuracy(self) -> float:
        """Share of the examples that are classified as labelled."""
        return float(self.correct.mean())


def make_eval_step(
    model: nn.Module,
    attack: Attack | None = None,
    *,
    make_attack: MakeAttack | None = None,
    precision: str = "highest",
) -> EvalStep:
    """Builds a jitted `step(variables, images, labels, keys)` of a Linen module.

    The variables are arguments, so one compiled step serves every checkpoint. The
    network runs in evaluation mode. One with a field `draws` above 0 is randomised: it
    takes keys, and is judged by so many fresh draws.

    Without an `attack`, as `attacks.get` returns it, the images stay as they are;
    `make_attack`, in place of it, makes one from model and variables inside the
    compiled step. `precision` is of matrix products, in JAX's names (`highest` ...).

    Returns:
      A step from uint8 images [B, H, W, C], labels int32 [B] and one key per example
      [B] to `{'logits': float32 [B, K], 'x_adv': float32 [B, H, W, C]}`, of a
      randomised network also `'share': float32 [B]`, of draws that are right.
    """
    draws = getattr(model, "draws", 0)

    def step(
        variables: Variables, x: Images, labels: Labels, keys: Key
    ) -> dict[str, Array]:
        logits_fn = models.logits_fn(model, variables)
        made = attack if make_attack is None else make_attack(model, variables)
        if made is not None:
            x = made(logits_fn, x, labels, keys)
        if draws:
            return {**judge(logits_fn, x, labels, keys, draws), "x_adv": x}
        return {"logits": float_logits(logits_fn(x)), "x_adv": x}

    return jitted(step, precision)


def jitted(
    body: Callable[[Variables, Images, Labels, Key], dict[str, Any]], precision: str
) -> EvalStep:
    """Compiles a step from uint8 images; its body gets them scaled to [0, 1]."""

    @jax.jit
    def run(variables, images, labels, keys) -> dict[str, Any]:
        with jax.default_matmul_precision(precision):
            return body(variables, to_float(images), labels, keys)

    return run


def classifier(
    model: nn.Module, precision: str
) -> Callable[[Variables, Images], Logits]:
    """Compiles the network alone, for images in [0, 1] that were made outside of it."""

    @jax.jit
    def classify(variables: Variables, x: Images) -> Logits:
        with jax.default_matmul_precision(precision):
            return float_logits(models.logits_fn(model, variables)(x))

    return classify


def judge(
    logits_fn: LogitsFn, x: Images, labels: Int[Array, "B"], keys: Key, draws: int
) -> dict[str, Array]:
    """Asks a randomised network so many times, with keys that no attack has seen.

    Gives `logits`, the logarithm of the mean probabilities, and `share`, of draws that
    are right.
    """

    def ask(number: Int[Array, ""]) -> tuple[Array, Array]:
        logits = logits_fn(x, fresh_keys(keys, number)).astype(jnp.float32)
        return jax.nn.log_softmax(logits), logits.argmax(-1) == labels

    found, right = jax.lax.map(ask, jnp.arange(draws, dtype=jnp.uint32))
    mean = jax.nn.logsumexp(found, axis=0) - jnp.log(jnp.float32(draws))
    return {"logits": mean, "share": right.mean(0, dtype=jnp.float32)}


def fresh_keys(keys: Key, draw: int | Int[Array, ""]) -> Key:
    """Keys [B] that no attack has seen, for one of the draws that judge."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, _JUDGE + draw)


def to_float(images: UInt8[Array, "B H W C"]) -> Images:
    """Scales 8-bit levels to [0, 1]."""
    return images.astype(jnp.float32) / 255


def float_logits(logits: Logits) -> Logits:
    """Makes float32 of what a network gives; see `losses.comparable`."""
    return losses.comparable(logits).astype(jnp.float32)


@jax.jit
def example_keys(key: Key, indices: Int[Array, "B"]) -> Key:
    """One key per example [B], from its index in the data set alone."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def summarise(
    logits: Float[np.ndarray, "N K"],
    labels: Int[np.ndarray, "N"],
    x_adv: Float[np.ndarray, "keep H W C"],
    distance: Mapping[str, Float[np.ndarray, "N"]],
) -> EvalRun:
    """Turns logits into predictions and losses."""
    check_finite(logits)
    predicted = logits.argmax(-1)
    shifted = np.asarray(logits, np.float64) - logits.max(-1, keepdims=True)
    own = np.take_along_axis(shifted, labels[:, None], -1)[:, 0]
    loss = np.log(np.exp(shifted).sum(-1)) - own
    return EvalRun(predicted == labels, predicted, loss, logits, x_adv, distance)


def concatenate(runs: Sequence[EvalRun]) -> EvalRun:
    """Joins passes of one step over different examples, in their order."""
    first = runs[0]
    if len(runs) == 1:
        return first

    def joined(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], Mapping):
            return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
        return None if parts[0] is None else np.concatenate(parts)

    arrays = ("correct", "predicted", "loss", "logits", "x_adv")
    arrays = (*arrays, "distance", "stages", "share")
    costs = {
        name: {what: sum(run.costs[name][what] for run in runs) for what in cost}
        for name, cost in first.costs.items()
    }
    flags = {flag["name"]: flag for run in reversed(runs) for flag in run.flags}
    return dataclasses.replace(
        first,
        **{name: joined([getattr(run, name) for run in runs]) for name in arrays},
        costs=costs,
        flags=list(flags.values()),
    )


class NonFiniteLogits(ValueError):
    """Logits that are no predictions."""


def check_finite(logits: Float[np.ndarray, "N *rest"]) -> None:
    """Refuses logits that are no prediction: argmax would call them class 0."""
    bad = ~np.isfinite(logits).reshape(len(logits), -1).all(-1)
    if bad.any():
        raise NonFiniteLogits(
            f"the logits of {int(bad.sum())} of {len(logits)} examples are not finite "
            f"(the first is number {int(bad.argmax())}): they are no predictions; "
            "check the weights and the normalisation."
        )
