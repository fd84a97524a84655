"""The jitted training step: augment, attack, update."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from jaxrobust import parallel
from jaxrobust.array_types import Key
from jaxrobust.data.augment import Augment
from jaxrobust.data.mix import Mixing
from jaxrobust.defenses.base import Defense, Phase
from jaxrobust.training import averaging, nonfinite
from jaxrobust.training.accumulate import phase_gradient
from jaxrobust.training.nonfinite import Update
from jaxrobust.training.state import Averaged, TrainState


def make_train_step(
    defense: Defense,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    augment: Augment,
    *,
    mesh: Mesh | None = None,
    ema: float = 0.0,
    precision: str = "default",
    dtype: Any = jnp.float32,
    accumulate: int = 1,
    skip_nonfinite: bool = False,
    mix: Mixing | None = None,
    swa: averaging.Span | None = None,
) -> Update:
    """Builds the step of a defence.

    Args:
      defense: the objective.
      tx: the optimiser, at learning rate 1.
      schedule: the learning rate at a step.
      augment: `(images in [0, 1], keys [B]) -> images`.
      mesh: devices that share the batch; the state is copied to each.
      ema: decay of the averaged weights, 0 for none.
      precision: of matmuls and convolutions, as `jax.default_matmul_precision`.
      dtype: of the images; float64 in tests of parity.
      accumulate: parts of a batch, see `accumulate.phase_gradient`; the update is one.
      skip_nonfinite: drop updates as `nonfinite.dropping`, whose states it takes.
      mix: mixes the augmented images of a batch, see `data.mix.make`.
      swa: over which weights an even average is taken, where the state keeps one.

    Returns:
      `step(state, batch, key) -> (state, metrics)`, jitted; the state is donated.
      `batch` holds `image` uint8 [B, H, W, C], `label` [B] and `index` [B], the
      examples' places in the data; `key` is the run's. Metrics are scalars on the
      device.
    """

    def step(
        state: TrainState, batch: Mapping[str, Array], key: Key
    ) -> tuple[TrainState, dict[str, Array]]:
        with jax.default_matmul_precision(precision):
            key = jax.random.fold_in(key, state.step)
            prepared = prepare(batch, key, augment, dtype, mix)
            rate = jnp.asarray(schedule(state.step)) * state.plateau.scale
            metrics: dict[str, Any] = {"learning_rate": rate}
            for number, phase in enumerate(defense.phases):
                phase_key = jax.random.fold_in(key, number)
                state, handed = _update(
                    phase, tx, rate, state, prepared, phase_key, metrics, accumulate
                )
                prepared |= handed
            if isinstance(state.ema_params, Averaged):
                assert swa is not None
                state = averaging.evenly(state, swa)
            elif state.ema_params is not None:
                average = optax.incremental_update(
                    state.params["model"], state.ema_params, 1 - ema
                )
                state = state.replace(ema_params=average)
            return state.replace(step=state.step + 1), metrics

    update = nonfinite.dropping(step) if skip_nonfinite else step
    if mesh is None:
        return jax.jit(update, donate_argnums=0)
    everywhere = parallel.replicated(mesh)
    return jax.jit(
        update,
        donate_argnums=0,
        in_shardings=(everywhere, parallel.by_batch(mesh), everywhere),
        out_shardings=everywhere,
    )


def prepare(
    batch: Mapping[str, Array],
    key: Key,
    augment: Augment,
    dtype: Any,
    mix: Mixing | None = None,
) -> dict[str, Array]:
    """Scales, augments and mixes a batch; every example gets a key of its own.

    The key of an example comes from the step's key and its index in the data, so it
    does not depend on the batch's order or on the devices; with what it is mixed does.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])
    streams = jax.vmap(lambda k: jax.random.split(k))(keys)
    images = batch["image"].astype(dtype) / 255
    prepared = {
        "image": augment(images, streams[:, 0]),
        "label": batch["label"],
        "key": streams[:, 1],
    }
    if mix is None:
        return prepared
    own = jax.vmap(jax.random.fold_in, (0, None))(keys, 2)
    return prepared | mix(prepared["image"], batch["label"], own)


def _update(
    phase: Phase,
    tx: optax.GradientTransformation,
    rate: Array,
    state: TrainState,
    batch: Mapping[str, Array],
    key: Key,
    metrics: dict[str, Any],
    parts: int,
) -> tuple[TrainState, Mapping[str, Array]]:
    """Makes one phase's update, adds to `metrics`; returns what it hands on."""
    found = phase_gradient(
        phase, parts, state.params, state.model_state, batch, key, state.step
    )
    metrics.update(grad_norm=optax.tree.norm(found.grads), **found.metrics)
    updates, opt_state = tx.update(found.grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda u: u * rate.astype(u.dtype), updates)
    params = optax.apply_updates(state.params, updates)
    if phase.mask is not None:
        # Masked leaves keep their optimiser state too: zero gradients alone would still
        # let momentum and weight decay move them.
        mask = phase.mask(state.params, state.step, metrics)
        params = jax.tree.map(jnp.where, mask, params, state.params)
        kept = optax.tree.map_params(
            tx, lambda _, on: on, opt_state, mask, transform_non_params=lambda _: True
        )
        opt_state = jax.tree.map(jnp.where, kept, opt_state, state.opt_state)
    new = state.replace(
        params=params, model_state=found.model_state, opt_state=opt_state
    )
    if phase.when is not None:
        taken = functools.partial(jnp.where, phase.when(state.step, metrics))
        new = jax.tree.map(taken, new, state)
    return new, found.handed
