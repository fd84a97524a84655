"""The file of an evaluation, from which a killed one goes on."""

import hashlib
import time
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxrobust.attacks import stepping
from jaxrobust.evaluation.ensemble import state, versions
from jaxrobust.evaluation.ensemble.runner import Runner
from jaxrobust.evaluation.ensemble.settings import Settings, Standing
from jaxrobust.parallel import processes

_SAVING_SHARE = 20


class Keeper:
    """Writes an evaluation's state to its file now and then, and reads it."""

    def __init__(
        self, settings: Settings, folder: epath.PathLike | None, every: float
    ) -> None:
        """Names the file in `folder`; None keeps nothing. `every` is in seconds."""
        self._settings, self._every = settings, every
        self._last, self._took = time.monotonic(), 0.0
        self._path = None
        if folder is not None:
            name = f"autoattack-{settings.version}-{self._fingerprint()[:16]}.npz"
            self._path = epath.Path(folder) / name

    def _fingerprint(self) -> str:
        """Names model, images, labels, keys and settings: others have another file."""
        settings, held = self._settings, self._settings.held
        digest = hashlib.sha256()
        keys = np.asarray(jax.random.key_data(held.keys))
        for array in (held.x, held.y, keys):
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        fixed = (settings.eps, settings.ball.norm, settings.ball.bounds)
        config: Any = jax.config
        precision = config.jax_default_matmul_precision
        fixed = (*fixed, settings.version, settings.draws, precision)
        digest.update(repr(fixed).encode())
        model = stepping.fingerprint(
            settings.logits_fn, held.x[:2], stochastic=settings.stochastic
        )
        return digest.hexdigest()[:8] + model[:8]

    def maybe_save(self, found: Standing, runner: Runner) -> None:
        """Saves if it is time, by the lead's clock; large states less often."""
        if self._path is None:
            return
        wait = max(self._every, _SAVING_SHARE * self._took)
        if processes.agree(time.monotonic() - self._last >= wait):
            self.save(found, runner)

    def save(self, found: Standing, runner: Runner | None) -> None:
        """Saves, in the middle of a stage where there is a runner."""
        if self._path is None:
            return
        begin = time.monotonic()
        meta: dict[str, Any] = {
            "stages": found.stages,
            "flagged": found.flagged,
            "runner": None,
        }
        held = self._settings.held
        moved = np.flatnonzero((found.x_adv != held.x).any((1, 2, 3)))
        arrays = {
            "clean": held.clean,
            "share": found.share,
            "stuck": found.stuck,
            "moved": moved,
            "x_adv": found.x_adv[moved],
            "robust": np.stack(found.robust),
        }
        if runner is not None:
            meta["runner"], more = runner.save()
            meta["runner"]["most"] = self._settings.most
            arrays |= {f"runner/{k}": v for k, v in more.items()}
        if processes.is_lead():
            state.save(self._path, meta, arrays)
        self._last = time.monotonic()
        self._took = self._last - begin

    def load(self) -> tuple[Standing, Any] | None:
        """Returns what was saved.

        Raises:
          ValueError: if the file cannot be read.
        """
        saved = None if self._path is None else state.load(self._path)
        processes.check_same(
            f"the saved state {self._path}", lambda: saved and saved[0]
        )
        if saved is None:
            return None
        meta, arrays = saved
        clean = self._settings.held.clean
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
            arrays["stuck"],
        )
        middle = meta["runner"]
        return found, middle and (middle, state.part(arrays, "runner"))
