"""Adversarial weight perturbation (Wu et al., NeurIPS 2020, arXiv 2004.05884)."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust._checks import FINITE, check_number
from jaxrobust.array_types import Key, PyTree, Scalar
from jaxrobust.defenses import base
from jaxrobust.defenses.base import Batch, ModelState, Params


def awp(defense: base.Defense, gamma: float, warmup_steps: int = 0) -> base.Defense:
    """Makes every phase's loss be taken at the worst weights nearby.

    One step of ascent on the phase's own loss and batch, each weight tensor w moved by
    `gamma` ||w|| g / ||g|| (equations 8 to 10, one step); the update is the gradient
    there, applied to the weights as they were. Tensors of fewer than two dimensions
    (biases, norms) and a defence's own trainables stay in place. Attacked images are
    made once, at the unmoved weights, and running statistics come from the second pass
    alone. The release's decay acts on the moved weights, here on the unmoved ones.

    Args:
      defense: any training objective.
      gamma: size of the perturbation relative to each tensor's norm; .01 for PGD
        training and .005 for TRADES in the paper. 0 returns `defense` itself.
      warmup_steps: steps at the start without perturbation.

    Raises:
      ValueError: for a `gamma` below 0 or not finite, or `warmup_steps` below 0.
    """
    check_number("awp_gamma", gamma, FINITE)
    check_number("awp_warmup_steps", warmup_steps, FINITE)
    if gamma == 0:
        return defense
    phases = tuple(
        dataclasses.replace(phase, loss=_at_worst_weights(phase, gamma, warmup_steps))
        for phase in defense.phases
    )
    return dataclasses.replace(defense, phases=phases)


def _at_worst_weights(
    phase: base.Phase, gamma: float, warmup_steps: int
) -> base.PhaseLoss:
    def loss(
        params: Params, model_state: ModelState, batch: Batch, key: Key, step: Array
    ) -> base.PhaseResult:
        # The perturbation is a constant of the update, not a part of what is
        # differentiated: no second derivatives.
        here = jax.lax.stop_gradient(params)
        gradient = jax.grad(phase.loss, has_aux=True)
        ascent, _ = gradient(here, model_state, batch, key, step)
        # One program for all steps: in the warm-up the weights move by 0.
        size = jnp.where(step < warmup_steps, 0.0, gamma)
        delta = perturbation(here["model"], ascent["model"], size)
        moved = jax.tree.map(jnp.add, params["model"], delta)
        return phase.loss({**params, "model": moved}, model_state, batch, key, step)

    return loss


def perturbation(weights: PyTree, ascent: PyTree, gamma: Scalar) -> PyTree:
    """Returns `gamma` ||w|| g / ||g|| per tensor of at least two dimensions, else 0.

    `weights` is a tree of tensors w, `ascent` the gradient g there.
    """

    def move(w: Array, g: Array) -> Array:
        # As released: kernels move, biases and scales of norms do not.
        if w.ndim < 2:
            return jnp.zeros_like(w)
        # A tensor that the loss does not see has no direction to move in.
        length = jnp.linalg.norm(g.ravel())
        scale = gamma * jnp.linalg.norm(w.ravel()) / jnp.where(length > 0, length, 1)
        return (g * scale).astype(w.dtype)

    chex.assert_trees_all_equal_shapes(weights, ascent)
    return jax.tree.map(move, weights, ascent)
