"""What the passes of one evaluation share, and how they go through its examples."""

import collections
import dataclasses
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, UInt8

from jaxrobust import parallel, threat
from jaxrobust.array_types import Key, Variables
from jaxrobust.data import Dataset
from jaxrobust.evaluation import step, verify


@dataclasses.dataclass(frozen=True)
class Devices:
    """Where arrays go: split over the devices of a mesh, or on the default device."""

    mesh: Mesh | None

    @property
    def count(self) -> int:
        """How many there are."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def by_rows(self) -> Any:
        """The sharding of arrays with a leading axis of rows; None for one device."""
        return None if self.mesh is None else parallel.by_batch(self.mesh)

    def put_rows(self, tree: Any) -> Any:
        """Puts arrays whose leading axis is that of the rows."""
        if self.mesh is None:
            return jax.device_put(tree)
        return parallel.put_batch(self.mesh, tree)

    def put_copies(self, tree: Any) -> Any:
        """Puts a full copy on every device."""
        if self.mesh is None:
            return jax.device_put(tree)
        return parallel.replicate(self.mesh, tree)


@dataclasses.dataclass(frozen=True)
class Batches:
    """The N examples at `indices` of a data set, for steps of a network's `variables`.

    The images are uint8, on the host. All batches have one fixed shape, split over
    `mesh`, if any: the last one is padded, and the padding dropped. Every example has
    its own key, from its index, so nothing depends on the batch size or the devices.
    """

    variables: Variables
    dataset: Dataset
    indices: Int[np.ndarray, "N"]
    batch_size: int
    mesh: Mesh | None
    progress: step.ProgressSink | None

    @property
    def images(self) -> UInt8[np.ndarray, "N H W C"]:
        """The examples as they are stored."""
        return self.dataset.images[self.indices]

    @property
    def labels(self) -> Int[np.ndarray, "N"]:
        """Their true classes."""
        return self.dataset.labels[self.indices]

    def through(
        self, run_step: step.EvalStep, key: Key, copies: int = 1
    ) -> Iterator[tuple[slice, Mapping[str, Any]]]:
        """Yields the rows of each batch and what the step made of them.

        `logits` come back as a host array without the padding, the rest stays on the
        device. One batch is in flight while the caller looks at the one before. Where
        an image is `copies` times as much work as in one pass, the batch shrinks so.
        """
        waiting = collections.deque()
        for rows, batch in self._batches(key, copies):
            waiting.append((rows, run_step(*batch)))
            if len(waiting) > 1:
                yield _with_logits(*waiting.popleft())
        for rows, out in waiting:
            yield _with_logits(rows, out)

    def compile(self, run_step: step.EvalStep) -> None:
        """Compiles a step for the batches that it will get, and runs nothing."""
        jitted: Any = run_step
        for _, batch in self._batches(jax.random.key(0)):
            jitted.lower(*batch).compile()
            return

    def _batches(self, key: Key, copies: int = 1) -> Iterator[tuple[slice, Any]]:
        """Yields the rows of each batch and the arguments of a step."""
        if not len(self.indices):
            raise ValueError("`dataset` has no examples to evaluate.")
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {self.batch_size}.")
        devices = Devices(self.mesh)
        variables = devices.put_copies(self.variables)
        size = min(max(1, self.batch_size // copies), len(self.indices))
        # Rounding up is safe, as results do not depend on the batch size.
        size = -(-size // devices.count) * devices.count
        for padded in padded_rows(len(self.indices), size):
            rows = slice(int(padded[0]), int(padded[-1]) + 1)
            own = self.indices[padded]  # the last example repeated, its key too
            keys = step.example_keys(*jax.device_put((key, own.astype(np.int32))))
            batch = (self.dataset.images[own], self.dataset.labels[own], keys)
            yield rows, (variables, *devices.put_rows(batch))

    def judged(
        self,
        run_step: step.EvalStep,
        key: Key,
        label: str,
        keep: Int[np.ndarray, "keep"] | int = 0,
        ball: verify.Ball | None = None,
    ) -> step.EvalRun:
        """Runs a step of `make_eval_step`; see `run_eval_step`."""
        shown, labels = np.zeros(len(self.indices), bool), self.labels
        shown[slice(keep) if isinstance(keep, int) else keep] = True
        logits, kept, sizes, shares, hits = [], [], [], [], 0
        for rows, out in self.through(run_step, key):
            logits.append(out["logits"])
            if "share" in out:
                shares.append(fetched(out["share"], rows))
            if ball is not None or shown[rows].any():
                x_adv = fetched(out["x_adv"], rows)
                kept.append(x_adv[shown[rows]])
                if ball is not None:
                    images = self.dataset.images[self.indices[rows]]
                    sizes.append(verify.check_ball(x_adv, images, ball))
            if self.progress is not None:
                hits += int((out["logits"].argmax(-1) == labels[rows]).sum())
                accuracy = {"accuracy": hits / rows.stop}
                self.progress.update(rows.stop, len(labels), label, accuracy)
        none = np.zeros((0, *self.dataset.images.shape[1:]), np.float32)
        run = step.summarise(
            np.concatenate(logits),
            labels,
            np.concatenate([none, *kept]),
            {
                n: np.concatenate([s[n] for s in sizes])
                for n in threat.ALL_NORMS
                if sizes
            },
        )
        if not shares:
            return run
        share = np.concatenate(shares)
        return dataclasses.replace(run, correct=share >= step.HALF, share=share)


@dataclasses.dataclass(frozen=True)
class Setting(Batches):
    """The network and the examples of one evaluation, and its one `key`.

    `precision` is of matrix products; `fast` is said of AutoAttack alone.
    """

    model: nn.Module
    key: Key
    precision: str
    fast: bool = False

    def stream(self, label: str) -> Key:
        """Returns the key of one pass, whatever other passes there are."""
        return jax.random.fold_in(self.key, zlib.crc32(label.encode()))

    def keys(self, label: str) -> Key:
        """Returns the keys [N] that the examples have in one pass."""
        indices = jax.numpy.asarray(self.indices, jax.numpy.int32)
        return step.example_keys(self.stream(label), indices)

    def part(self, examples: int) -> "Setting":
        """Returns the same setting on so many of its examples."""
        positions = picked(len(self.indices), examples)
        return dataclasses.replace(self, indices=self.indices[positions])

    def run(
        self,
        run_step: step.EvalStep,
        label: str,
        *,
        keep: Int[np.ndarray, "keep"] | int = 0,
        ball: verify.Ball | None = None,
    ) -> step.EvalRun:
        """Runs a step of `make_eval_step` over the examples."""
        return self.judged(run_step, self.stream(label), label, keep, ball)

    def iterate(
        self, run_step: step.EvalStep, label: str, *, copies: int = 1
    ) -> Iterator[tuple[slice, Mapping[str, Any]]]:
        """Runs any other step and yields `(rows, outputs)`; see `through`."""
        for rows, out in self.through(run_step, self.stream(label), copies):
            step.check_finite(out["logits"])
            yield rows, out
            if self.progress is not None:
                self.progress.update(rows.stop, len(self.indices), label, {})


def run_eval_step(
    step: step.EvalStep,
    variables: Variables,
    dataset: Dataset,
    *,
    key: Key,
    batch_size: int,
    mesh: Mesh | None = None,
    indices: Int[np.ndarray, "N"] | None = None,
    keep_images: int | Int[np.ndarray, "keep"] = 0,
    ball: verify.Ball | None = None,
    progress: step.ProgressSink | None = None,
    label: str = "evaluation",
) -> step.EvalRun:
    """Runs `step` of `make_eval_step` over a data set in batches; see `Batches`.

    The N examples are those at `indices`, all by default, and `key` is one for the
    pass, which `progress` is told of as `label`. `keep_images` are the adversarial
    images to return: the first so many, or positions among the N. A `ball` has each of
    them checked again in float64, and measured.

    Raises:
      ValueError: if there is no example, an adversarial image leaves `ball`, or any
        logit is not finite.
    """
    indices = np.arange(len(dataset.labels)) if indices is None else indices
    batches = Batches(variables, dataset, indices, batch_size, mesh, progress)
    return batches.judged(step, key, label, keep_images, ball)


def fetched(tree: Any, rows: slice) -> Any:
    """Returns arrays of the batch of some rows on the host, without the padding."""
    count = rows.stop - rows.start
    return jax.tree.map(lambda leaf: leaf[:count], parallel.to_host(tree))


def _with_logits(
    rows: slice, out: Mapping[str, Any]
) -> tuple[slice, Mapping[str, Any]]:
    return rows, {**out, "logits": fetched(out["logits"], rows)}


def padded_rows(total: int, size: int) -> Iterator[Int[np.ndarray, "size"]]:
    """Yields the numbers of `size` rows at a time; at the end the last one repeats."""
    for start in range(0, total, size):
        yield np.minimum(np.arange(start, start + size), total - 1)


def picked(total: int, examples: int) -> Int[np.ndarray, "N"]:
    """Picks examples, always the same ones, in order; 0 means all.

    A fixed shuffle, because folders and some data sets are stored class by class;
    fewer examples are a part of more.
    """
    return np.sort(shuffled(total, examples))


def shuffled(total: int, examples: int) -> Int[np.ndarray, "N"]:
    """Returns what `picked` picks, in the order of the shuffle."""
    if examples < 0:
        raise ValueError(f"`examples` must be at least 0 (0 = all), got {examples}.")
    return np.random.default_rng(0).permutation(total)[: examples or total]
