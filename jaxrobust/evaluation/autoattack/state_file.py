"""The file of an evaluation, from which a killed one goes on."""

import contextlib
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxrobust.analysis import logits as of_logits
from jaxrobust.attacks import stepping
from jaxrobust.evaluation.autoattack import saved_state, stage
from jaxrobust.evaluation.autoattack.result import State
from jaxrobust.evaluation.autoattack.setup import Setup
from jaxrobust.parallel import processes
from jaxrobust.runtime import files

_SAVING_SHARE = 20
# Of a typical lead: more than rounding on other devices, also of half precision.
_CHANGE = 0.05
# Of the images: those whose lead may change by more in a network that is the same.
_OTHER_SHARE = 0.01


class StateFile:
    """Writes an evaluation's state now and then, and reads it."""

    def __init__(
        self, setup: Setup, folder: epath.PathLike | None, every: float
    ) -> None:
        """Names the file in `folder`; None keeps nothing. `every` is in seconds."""
        self._setup, self._every = setup, every
        self._last, self._took = time.monotonic(), 0.0
        self._path = None
        if folder is not None:
            _check_named(setup)
            name = f"autoattack-{setup.version}-{_fingerprint(setup)[:16]}.npz"
            self._path = files.expand(folder) / name
            files.require_folder(self._path.parent, "give another `state_dir`")

    def save_if_due(self, state: State, now: stage.Progress) -> None:
        """Saves if it is time, by the lead's clock; large states less often."""
        if self._path is None:
            return
        wait = max(self._every, _SAVING_SHARE * self._took)
        if processes.agree(time.monotonic() - self._last >= wait):
            self.save(state, now)

    def save(self, state: State, now: stage.Progress | None = None) -> None:
        """Saves, in the middle of a stage where `now` is one."""
        if self._path is None:
            return
        begin = time.monotonic()
        meta, arrays = saved_state.pack(self._setup, state, now)
        if processes.is_lead():
            saved_state.write(self._path, meta, arrays)
        self._last = time.monotonic()
        self._took = self._last - begin

    def load(self, clean: np.ndarray) -> tuple[State, Any] | None:
        """Returns what was saved: the state, and the middle of a stage or None.

        Logits of the clean images are those of the first start, since targets come from
        them; `clean`, of now, may differ by rounding.

        Raises:
          ValueError: if the file cannot be read, or is of another model.
        """
        saved = None if self._path is None else saved_state.read(self._path)
        processes.check_same(
            f"the saved state {self._path}", lambda: saved and saved[0]
        )
        if saved is None:
            return None
        meta, arrays = saved
        if fault := saved_state.fault(self._setup, clean, meta, arrays):
            raise self._damaged(fault)
        self._check_same(arrays["clean"], clean)
        state = saved_state.unpack(self._setup, meta, arrays)
        if meta["runner"] is None:
            return state, None
        return state, (meta["runner"], saved_state.part(arrays, "runner"))

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """What fails within is said to be a fault of the file."""
        try:
            yield
        except (LookupError, TypeError, ValueError) as error:
            [reason, *_] = str(error).splitlines() or [type(error).__name__]
            raise self._damaged(reason[:200]) from None

    def _damaged(self, fault: str) -> ValueError:
        return ValueError(
            f"the saved state {self._path} is damaged ({fault}): delete it to start "
            "anew."
        )

    def _check_same(self, saved: np.ndarray, clean: np.ndarray) -> None:
        """Raises where the clean logits that were saved are not this model's."""
        dtype, other = self._setup.second_look.model.out.dtype, 1.0
        if saved.shape == clean.shape:
            change = of_logits.lead_change(saved, clean, dtype)
            other = float((change > _CHANGE).mean())
        if other > _OTHER_SHARE:
            raise ValueError(
                f"the saved state {self._path} is of another model: for {other:.0%} of "
                "the clean images its logits are not those of this one. Give each "
                "model a `state_dir` or a `state_tag` of its own, or delete the file."
            )


def _fingerprint(setup: Setup) -> str:
    """Names model, images, labels, keys and settings: others have another file."""
    x, y, keys = setup.examples
    digest = hashlib.sha256()
    for array in (x, y, np.asarray(jax.random.key_data(keys))):
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    config: Any = jax.config
    precision = config.jax_default_matmul_precision
    fixed = (setup.eps, setup.ball.norm, setup.ball.bounds)
    fixed = (*fixed, setup.version, setup.draws, precision, setup.tag)
    digest.update(repr(fixed).encode())
    model = stepping.fingerprint(setup.logits_fn, x[:2], stochastic=setup.stochastic)
    digest.update(model.encode())
    return digest.hexdigest()


def _check_named(setup: Setup) -> None:
    """Raises where only the user can say which model this is."""
    if setup.tag is not None:
        return
    found = stepping.host_calls(
        setup.logits_fn, setup.examples.x[:2], stochastic=setup.stochastic
    )
    if found:
        raise ValueError(
            f"`state_dir`: the model calls the host ({', '.join(found)}), so its "
            "program does not tell it from another model whose state may lie there. "
            "Give it a name that is its own, state_tag='my model, weights of May 3', "
            "or leave `state_dir` out."
        )
