"""Logits of many images in batches of one shape, on all devices."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrobust import losses, parallel
from jaxrobust.array_types import Key, LogitsFn
from jaxrobust.attacks import stepping
from jaxrobust.evaluation.step import padded_rows


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
        """The sharding of arrays with a leading axis of slots; None for one device."""
        return None if self.mesh is None else parallel.by_batch(self.mesh)

    def put_rows(self, tree: Any) -> Any:
        """Puts arrays whose leading axis is that of the slots."""
        if self.mesh is None:
            return jax.device_put(tree)
        return parallel.put_batch(self.mesh, tree)

    def put_copies(self, tree: Any) -> Any:
        """Puts a full copy on every device."""
        if self.mesh is None:
            return jax.device_put(tree)
        return parallel.replicate(self.mesh, tree)


class Forward:
    """A model's logits in batches of `batch` images, compiled once."""

    def __init__(
        self,
        logits_fn: LogitsFn,
        image: np.ndarray,
        batch: int,
        devices: Devices,
        *,
        stochastic: bool,
    ) -> None:
        """Traces and compiles the model for images that are like `image`."""
        self.batch, self._devices, self._stochastic = batch, devices, stochastic
        shape = jax.ShapeDtypeStruct((batch, *image.shape), image.dtype)
        self.model = stepping.capture(logits_fn, shape, stochastic=stochastic)
        self.arrays = devices.put_copies(list(self.model.arrays))
        self.classes: int = self.model.out.shape[1]
        example = (devices.put_rows(np.zeros(shape.shape, shape.dtype)),)
        if stochastic:
            keys = stepping.row_keys(jax.random.key(0), batch)
            example = (*example, devices.put_rows(keys))
        self._call = stepping.build(
            lambda *inputs: losses.comparable(self.model.fn(*inputs)),
            self.arrays,
            *example,
            model=self.model,
            shardings=devices.by_rows,
        )

    def __call__(self, x: np.ndarray, keys: Key | None = None) -> np.ndarray:
        """Returns the logits `[n, K]` of n images; the last batch is padded."""
        parts = []
        for rows in padded_rows(len(x), self.batch):
            inputs = [self._devices.put_rows(x[rows])]
            if self._stochastic:
                assert keys is not None
                inputs.append(self._devices.put_rows(keys[rows]))
            parts.append(parallel.to_host(self._call(self.arrays, *inputs)))
        return np.concatenate(parts)[: len(x)]
        return np.concatenate(parts)
