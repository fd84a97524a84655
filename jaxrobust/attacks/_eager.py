"""Between the public attacks and their pure cores: checks, compiling, warnings."""

import dataclasses
from typing import Any

import jax

from jaxrobust import threat
from jaxrobust.array_types import Images, Key
from jaxrobust.attacks._loop import Ascent, run
from jaxrobust.attacks._objective import Problem, check_loss


def iterate(
    problem: Problem, ascent: Ascent, key: Key | None, unroll: int | bool | None
) -> Images:
    """Checks the call and runs the shared loop."""
    _check(problem, ascent, key)
    if not ascent.random_start and not problem.stochastic:
        ascent = dataclasses.replace(ascent, restarts=1)
        key = None
    keys = None if key is None else threat.row_keys(key, problem.x.shape[0])
    x_adv, _ = run(problem, ascent, keys, unroll=1 if unroll is None else unroll)
    return jax.lax.stop_gradient(x_adv)


def _check(problem: Problem, ascent: Ascent, key: Any) -> None:
    threat.check_norm(problem.norm)
    check_loss(problem.loss)
    if (ascent.random_start or problem.stochastic) and key is None:
        raise ValueError(
            "`key` is missing: a random start or a stochastic model "
            "needs key=jax.random.key(seed)."
        )
    if ascent.steps < 0:
        raise ValueError(f"`steps` must be at least 0, got {ascent.steps}.")


def check_draws(x: Any, key: Any, eps: Any, norm: Any, bounds: Any, draws: int) -> None:
    """Checks a call of `uniform_noise`."""
    threat.check_norm(norm)
    if draws < 1:
        raise ValueError(f"`draws` must be at least 1, got {draws}.")
