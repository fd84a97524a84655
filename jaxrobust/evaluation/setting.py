"""What every pass of one evaluation shares."""

import dataclasses
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from jaxrobust.array_types import Key, Variables
from jaxrobust.data import Dataset
from jaxrobust.evaluation import step, verify


@dataclasses.dataclass(frozen=True)
class Setting:
    """The network, the examples and how to go through them.

    The N examples are those at `indices` of a data set of uint8 images on the host;
    `key` is one for the whole evaluation. Batches are split over `mesh`, if any.
    """

    model: nn.Module
    variables: Variables
    dataset: Dataset
    indices: Int[np.ndarray, "N"]
    key: Key
    batch_size: int
    mesh: Mesh | None
    precision: str
    progress: step.Progress | None

    @property
    def labels(self) -> Int[np.ndarray, "N"]:
        """True classes of the examples."""
        return self.dataset.labels[self.indices]

    def stream(self, label: str) -> Key:
        """Returns the key of one pass, whatever other passes there are."""
        return jax.random.fold_in(self.key, zlib.crc32(label.encode()))

    def part(self, examples: int) -> "Setting":
        """Returns the same setting on so many of its examples."""
        positions = choose(len(self.indices), examples)
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
        return step.run_eval_step(
            run_step,
            self.variables,
            self.dataset,
            key=self.stream(label),
            batch_size=self.batch_size,
            mesh=self.mesh,
            indices=self.indices,
            keep_images=keep,
            ball=ball,
            progress=self.progress,
            label=label,
        )

    def iterate(
        self, run_step: step.EvalStep, label: str, *, copies: int = 1
    ) -> Iterator[tuple[slice, Mapping[str, Any]]]:
        """Runs any other step and yields `(rows, outputs)`; see `step.iterate`.

        An image is `copies` times as much work as in one pass: the batch shrinks so.
        """
        for rows, out in step.iterate(
            run_step,
            self.variables,
            self.dataset,
            self.indices,
            self.stream(label),
            max(1, self.batch_size // copies),
            self.mesh,
        ):
            step.check_finite(out["logits"])
            yield rows, out
            if self.progress is not None:
                self.progress.update(rows.stop, len(self.indices), label, {})


def choose(total: int, examples: int) -> Int[np.ndarray, "N"]:
    """Picks examples, always the same ones, in order; 0 means all.

    A fixed shuffle, because folders and some data sets are stored class by class;
    fewer examples are a part of more.
    """
    return np.sort(shuffled(total, examples))


def shuffled(total: int, examples: int) -> Int[np.ndarray, "N"]:
    """Returns what `choose` picks, in the order of the shuffle."""
    if examples < 0:
        raise ValueError(f"`examples` must be at least 0 (0 = all), got {examples}.")
    return np.random.default_rng(0).permutation(total)[: examples or total]
