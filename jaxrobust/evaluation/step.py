"""One jitted evaluation step, and the loop that runs it over a data set."""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxrobust import models, parallel
from jaxrobust.array_types import Images, Key, Labels, LogitsFn, Variables
from jaxrobust.evaluation import verify

if TYPE_CHECKING:
    from jaxrobust.data import Dataset

Attack = Callable[[LogitsFn, Images, Labels, Key], Images]
EvalStep = Callable[[Variables, Array, Array, Key], Mapping[str, Array]]


class Progress(Protocol):
    """What evaluation reports to while it runs; `training.progress` has one."""

    def update(self, done: int, total: int, label: str, values: Mapping[str, float]):
        """Says that `done` of `total` examples of stage `label` are through."""

    def close(self):
        """Ends the display."""


@dataclasses.dataclass(frozen=True)
class EvalRun:
    """What one pass over N examples found.

    Attributes:
      correct: bool [N].
      predicted: the class with the largest logit, int [N].
      loss: cross-entropy in nats, float [N].
      x_adv: the first images as the network saw them, float32 [keep, H, W, C].
      distance: size of each perturbation per norm, float64 [N]; empty unless checked.
    """

    correct: Bool[np.ndarray, "N"]
    predicted: Int[np.ndarray, "N"]
    loss: Float[np.ndarray, "N"]
    x_adv: Float[np.ndarray, "keep H W C"]
    distance: Mapping[str, Float[np.ndarray, "N"]]

    @property
    def accuracy(self) -> float:
        """Share of the examples that are classified as labelled."""
        return float(self.correct.mean())


def make_eval_step(
    model: nn.Module, attack: Attack | None = None, *, precision: str = "highest"
) -> EvalStep:
    """Builds a jitted `step(variables, images, labels, keys)`.

    The variables are arguments, so one compiled step serves every checkpoint. The
    network runs in evaluation mode.

    Args:
      model: a Linen module.
      attack: what `attacks.get` returns; without one the images stay as they are.
      precision: of matrix products, in JAX's names (`highest`, `default` ...).

    Returns:
      A step from uint8 images [B, H, W, C], labels int32 [B] and one key per example
      [B] to `{'logits': float32 [B, K], 'x_adv': float32 [B, H, W, C]}`.
    """

    @jax.jit
    def step(
        variables: Variables,
        images: UInt8[Array, "B H W C"],
        labels: Int[Array, "B"],
        keys: Key,
    ) -> dict[str, Array]:
        with jax.default_matmul_precision(precision):
            logits_fn = models.logits_fn(model, variables)
            x_adv = to_float(images)
            if attack is not None:
                x_adv = attack(logits_fn, x_adv, labels, keys)
            logits = logits_fn(x_adv)
        return {"logits": logits.astype(jnp.float32), "x_adv": x_adv}

    return step


def to_float(images: UInt8[Array, "B H W C"]) -> Images:
    """Scales 8-bit levels to [0, 1]."""
    return images.astype(jnp.float32) / 255


@jax.jit
def example_keys(key: Key, indices: Int[Array, "B"]) -> Key:
    """One key per example [B], from its index in the data set alone."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def run_eval_step(
    step: EvalStep,
    variables: Variables,
    dataset: "Dataset",
    *,
    key: Key,
    batch_size: int,
    mesh: Mesh | None = None,
    keep_images: int = 0,
    ball: verify.Ball | None = None,
    progress: Progress | None = None,
    label: str = "eval",
) -> EvalRun:
    """Runs `step` over a data set in batches of one fixed shape.

    The last batch is padded and the padding dropped. Every example has its own key,
    from its index, so nothing depends on the batch size or the devices.

    Args:
      step: what `make_eval_step` returns.
      variables: of the network.
      dataset: N uint8 images and labels on the host.
      key: one key for the pass.
      batch_size: examples per batch; with a mesh a multiple of its devices.
      mesh: devices to split each batch over; the default device if None.
      keep_images: how many of the first adversarial images to return.
      ball: re-checks every adversarial image in float64 and measures it.
      progress: told after each batch.
      label: what to call this pass there.

    Raises:
      ValueError: if `dataset` is empty, the batch cannot be split over the devices, an
        adversarial image leaves `ball`, or any logit is not finite.
    """
    total = len(dataset.labels)
    if total == 0:
        raise ValueError("`dataset` has no examples.")
    batch_size = _fit_batch(batch_size, total, mesh)
    parts = collections.defaultdict(list)
    kept, non_finite = [], 0
    if mesh is not None:
        variables = parallel.replicate(mesh, variables)
    for start, out in _outputs(step, variables, dataset, key, batch_size, mesh):
        rows = slice(start, min(start + batch_size, total))
        count = rows.stop - start
        y = dataset.labels[rows]
        logits = np.asarray(jax.device_get(out["logits"]), np.float64)[:count]
        finite = np.isfinite(logits).all(-1)
        non_finite += int((~finite).sum())
        predicted = np.where(finite, logits.argmax(-1), -1)
        parts["predicted"].append(predicted)
        parts["correct"].append(predicted == y)
        parts["loss"].append(_cross_entropy(logits, y))
        if ball is not None or start < keep_images:
            x_adv = jax.device_get(out["x_adv"])[:count]
            kept.append(x_adv[: max(0, keep_images - start)])
            if ball is not None:
                sizes = verify.check_ball(x_adv, dataset.images[rows], ball)
                for norm, size in sizes.items():
                    parts[norm].append(size)
        if progress is not None:
            done = float(np.concatenate(parts["correct"]).mean())
            progress.update(rows.stop, total, label, {"accuracy": done})
    if non_finite:
        raise ValueError(
            f"the logits of {non_finite} of {total} examples are not finite ({label}); "
            "such outputs are no predictions: check the weights and the normalisation."
        )
    found = {name: np.concatenate(part) for name, part in parts.items()}
    shape = (0, *dataset.images.shape[1:])
    return EvalRun(
        correct=found["correct"],
        predicted=found["predicted"],
        loss=found["loss"],
        x_adv=np.concatenate(kept) if kept else np.zeros(shape, np.float32),
        distance={norm: found[norm] for norm in verify.NORMS if norm in found},
    )


def _fit_batch(batch_size: int, total: int, mesh: Mesh | None) -> int:
    """Checks the batch size; no batch is larger than the data set needs."""
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if mesh is None:
        return min(batch_size, total)
    parallel.check_batch_size(mesh, batch_size, "batch_size")
    return min(batch_size, -(-total // mesh.size) * mesh.size)


def _outputs(
    step: EvalStep,
    variables: Variables,
    dataset: "Dataset",
    key: Key,
    batch_size: int,
    mesh: Mesh | None,
) -> Iterator[tuple[int, Mapping[str, Array]]]:
    """Yields the start and the outputs of each batch.

    One batch is in flight while the host looks at the one before.
    """
    total = len(dataset.labels)
    waiting: collections.deque[tuple[int, Mapping[str, Array]]] = collections.deque()
    for start in range(0, total, batch_size):
        # Padding repeats the last example; its key too, so it costs nothing to trace.
        indices = np.minimum(np.arange(start, start + batch_size), total - 1)
        keys = example_keys(key, jax.device_put(indices.astype(np.int32)))
        batch = (dataset.images[indices], dataset.labels[indices], keys)
        batch = (
            jax.device_put(batch) if mesh is None else parallel.put_batch(mesh, batch)
        )
        waiting.append((start, step(variables, *batch)))
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def _cross_entropy(
    logits: Float[np.ndarray, "B K"], y: Int[np.ndarray, "B"]
) -> Float[np.ndarray, "B"]:
    with np.errstate(invalid="ignore"):  # the caller reports non-finite logits
        shifted = logits - logits.max(-1, keepdims=True)
        own = np.take_along_axis(shifted, y[:, None], -1)[:, 0]
        return np.log(np.exp(shifted).sum(-1)) - own
