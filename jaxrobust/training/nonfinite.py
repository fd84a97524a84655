"""Values that are not finite: found before they are saved, or their update dropped."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int

from jaxrobust import parallel
from jaxrobust.array_types import Key, PyTree
from jaxrobust.evaluation.step import NonFiniteLogits
from jaxrobust.training.state import TrainState

Update = Callable[
    [TrainState, Mapping[str, Array], Key], tuple[TrainState, dict[str, Array]]
]

ADVICE = (
    "start again in another --workdir with a lower config.optimizer.learning_rate, "
    "with config.optimizer.clip_norm, or with config.train.skip_nonfinite, which drops "
    "such updates. Checkpoints are kept: with a lower rate and "
    "--config.train.extend=True the last one goes on."
)


class Counted(flax.struct.PyTreeNode):
    """The optimiser's state with the number of updates dropped in a row.

    It takes the place of `TrainState.opt_state`, so that a state without the option,
    and its checkpoints, are what they are without it.
    """

    inner: optax.OptState
    dropped: Int[Array, ""]

    @classmethod
    def of(cls, first: TrainState) -> TrainState:
        """Returns the state before the first step of a step made by `dropping`."""
        return first.replace(opt_state=cls(first.opt_state, jnp.int32(0)))


def dropping(update: Update) -> Update:
    """Makes of a step, not compiled yet, one that drops updates that are not finite.

    Of a dropped update nothing stays but the step's number: parameters, optimiser,
    BatchNorm statistics and averages are as they were. States are those of
    `Counted.of`. Metrics have `skipped`, the number of updates dropped in a row up to
    this one, 0 after a good one.
    """

    def step(
        state: TrainState, batch: Mapping[str, Array], key: Key
    ) -> tuple[TrainState, dict[str, Array]]:
        counted: Any = state.opt_state
        before = state.replace(opt_state=counted.inner)
        after, metrics = update(before, batch, key)
        good = ~jnp.stack(_broken((metrics, _trained(after)))).any()
        kept: TrainState = jax.tree.map(
            lambda new, old: jnp.where(good, new, old),
            after,
            before.replace(step=after.step),
        )
        dropped = jnp.where(good, 0, counted.dropped + 1)
        state = kept.replace(opt_state=Counted(kept.opt_state, dropped))
        return state, {**metrics, "skipped": dropped}

    return step


def _trained(state: TrainState) -> dict[str, PyTree]:
    """Returns what must be finite; the plateau's best loss starts at infinity."""
    names = ("params", "model_state", "opt_state", "ema_params")
    return {name: getattr(state, name) for name in names}


@jax.jit
def _broken(tree: PyTree) -> list[Bool[Array, ""]]:
    return [~jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]


@contextlib.contextmanager
def told(step: int) -> Iterator[None]:
    """Tells logits of a validation that are not finite as what training came to.

    Finite weights, of a rate that is far too high, may be so large.
    """
    try:
        yield
    except NonFiniteLogits as error:
        what = str(error).partition(":")[0]
        raise FloatingPointError(
            f"at the validation after step {step} {what}; {ADVICE}"
        ) from None


def check_state(state: TrainState) -> None:
    """Looks at a state before it is saved; FloatingPointError names what is not finite.

    The metrics of a step are those of the parameters before its update: finite ones do
    not tell of an update that overflowed.
    """
    trained: Any = _trained(state)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(trained)]
    broken = parallel.to_host(_broken(trained))
    for path, bad in zip(paths, broken, strict=True):
        if bad:
            raise FloatingPointError(
                f"{jax.tree_util.keystr(path, simple=True, separator='/')} is not "
                f"finite after step {int(state.step)}; {ADVICE}"
            )
