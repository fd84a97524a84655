"""The file of an evaluation, from which a killed one goes on."""

import functools
import hashlib
import time
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxrobust.evaluation.ensemble import state, versions
from jaxrobust.evaluation.ensemble.runner import Runner
from jaxrobust.evaluation.ensemble.settings import Settings, Standing

_SAVING_SHARE = 20


class Keeper:
    """Writes an evaluation's state to its file now and then, and reads it."""

    def __init__(
        self, settings: Settings, folder: epath.PathLike | None, every: float
    ) -> None:
        """Names the file in `folder`; None keeps nothing. `every` is in seconds."""
        self._settings, self._every = settings, every
        self._last, self._took = time.monotonic(), 0.0
        ball = settings.ball
        name = f"autoattack-{settings.version}-{ball.norm}-{settings.eps:.6g}.npz"
        self._path = None if folder is None else epath.Path(folder) / name

    @functools.cached_property
    def _fingerprint(self) -> str:
        """Names images, labels, keys and threat."""
        held, ball = self._settings.held, self._settings.ball
        digest = hashlib.sha256()
        keys = np.asarray(jax.random.key_data(held.keys))
        for array in (held.x, held.y, keys):
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        fixed = (self._settings.eps, ball.norm, ball.bounds, self._settings.version)
        digest.update(repr((*fixed, self._settings.draws)).encode())
        return digest.hexdigest()

    def maybe_save(self, found: Standing, runner: Runner) -> None:
        """Saves if it is time; large states less often."""
        wait = max(self._every, _SAVING_SHARE * self._took)
        if self._path is not None and time.monotonic() - self._last >= wait:
            self.save(found, runner)

    def save(self, found: Standing, runner: Runner | None) -> None:
        """Saves, in the middle of a stage where there is a runner."""
        if self._path is None:
            return
        begin = time.monotonic()
        meta: dict[str, Any] = {
            "fingerprint": self._fingerprint,
            "stages": found.stages,
            "flagged": found.flagged,
            "runner": None,
        }
        held = self._settings.held
        moved = np.flatnonzero((found.x_adv != held.x).any((1, 2, 3)))
        arrays = {
            "clean": held.clean,
            "share": found.share,
            "moved": moved,
            "x_adv": found.x_adv[moved],
            "robust": np.stack(found.robust),
        }
        if runner is not None:
            meta["runner"], more = runner.save()
            meta["runner"]["most"] = self._settings.most
            arrays |= {f"runner/{k}": v for k, v in more.items()}
        state.save(self._path, meta, arrays)
        self._last = time.monotonic()
        self._took = self._last - begin

    def load(self) -> tuple[Standing, Any] | None:
        """Returns what was saved, if it is of this evaluation.

        Raises:
          ValueError: if it is of another one.
        """
        saved = None if self._path is None else state.load(self._path)
        if saved is None:
            return None
        meta, arrays = saved
        if meta["fingerprint"] != self._fingerprint:
            raise ValueError(
                f"{self._path} holds an evaluation of other images, labels, keys or "
                "settings: give another `state_dir`, or delete it."
            )
        clean = self._settings.held.clean
        if not np.allclose(
            arrays["clean"], clean, rtol=1e-2, atol=1e-2 * abs(clean).max()
        ):
            raise ValueError(
                f"{self._path} holds an evaluation of another model (its logits on the "
                "clean images differ): give another `state_dir`, or delete it."
            )
        # Targets come from these logits: those of the first start are kept.
        clean[...] = arrays["clean"]
        x_adv = self._settings.held.x.copy()
        x_adv[arrays["moved"]] = arrays["x_adv"]
        found = Standing(
            arrays["share"],
            x_adv,
            list(arrays["robust"]),
            [(seconds, versions.Calls(*calls)) for seconds, calls in meta["stages"]],
            meta["flagged"],
        )
        middle = meta["runner"]
        return found, middle and (middle, state.part(arrays, "runner"))
