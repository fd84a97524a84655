"""The file of an evaluation, from which a killed one goes on."""

import contextlib
import hashlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxrobust.attacks import stepping
from jaxrobust.evaluation import verify
from jaxrobust.evaluation.autoattack import leads, signs, state, versions
from jaxrobust.evaluation.autoattack.runner import Runner
from jaxrobust.evaluation.autoattack.settings import Settings, Standing
from jaxrobust.parallel import processes
from jaxrobust.runtime import files

_SAVING_SHARE = 20
# Of a typical lead: more than rounding on other devices, also of half precision.
_CHANGE = 0.05
# Of the images: those whose lead may change by more in a network that is the same.
_OTHER_SHARE = 0.01


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
            _check_named(settings)
            name = f"autoattack-{settings.version}-{self._fingerprint()[:16]}.npz"
            self._path = files.expand(folder) / name
            files.require_folder(self._path.parent, "give another `state_dir`")

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
        fixed = (*fixed, settings.version, settings.draws, precision, settings.tag)
        digest.update(repr(fixed).encode())
        model = stepping.fingerprint(
            settings.logits_fn, held.x[:2], stochastic=settings.stochastic
        )
        digest.update(model.encode())
        return digest.hexdigest()

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
            "rejected": found.rejected,
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
          ValueError: if the file cannot be read, or is of another model.
        """
        saved = None if self._path is None else state.load(self._path)
        processes.check_same(
            f"the saved state {self._path}", lambda: saved and saved[0]
        )
        if saved is None:
            return None
        meta, arrays = saved
        if fault := _fault(self._settings, meta, arrays):
            raise ValueError(
                f"the saved state {self._path} is damaged ({fault}): delete it to "
                "start anew."
            )
        clean = self._settings.held.clean
        self._check_same(arrays["clean"], clean)
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
            arrays["rejected"],
        )
        middle = meta["runner"]
        if middle is None:
            return found, None
        return found, (middle, state.part(arrays, "runner"))

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """What fails within is said to be a fault of the file."""
        try:
            yield
        except (LookupError, TypeError, ValueError) as error:
            [reason, *_] = str(error).splitlines() or [type(error).__name__]
            raise ValueError(
                f"the saved state {self._path} is damaged ({reason[:200]}): delete it "
                "to start anew."
            ) from None

    def _check_same(self, saved: np.ndarray, clean: np.ndarray) -> None:
        """Raises where the clean logits that were saved are not this model's."""
        dtype, other = self._settings.check.model.out.dtype, 1.0
        if saved.shape == clean.shape:
            other = float((leads.change(saved, clean, dtype) > _CHANGE).mean())
        if other > _OTHER_SHARE:
            raise ValueError(
                f"the saved state {self._path} is of another model: for {other:.0%} of "
                "the clean images its logits are not those of this one. Give each "
                "model a `state_dir` or a `state_tag` of its own, or delete the file."
            )


def _fault(
    settings: Settings, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> str | None:
    """Says what of a saved state cannot be so, or nothing."""
    if not _is_told(meta, len(settings.plan.stages)):
        return "what it says of its stages"
    held, plain = settings.held, {k: v for k, v in arrays.items() if "/" not in k}
    count, moved = len(held.x), plain.get("moved", np.zeros(0))
    wanted = {
        "clean": ("f", held.clean.shape),
        "share": ("f", (count,)),
        "stuck": ("b", (count,)),
        "rejected": ("i", (count,)),
        "moved": ("i", (moved.size,)),
        "x_adv": ("f", (moved.size, *held.x.shape[1:])),
        "robust": ("b", (len(meta["stages"]) + 1, count)),
    }
    for name, (kind, shape) in wanted.items():
        if name not in plain:
            return f"it has no {name}"
        # Another number of classes is another model, which is told elsewhere.
        fits = plain[name].shape == shape or name == "clean"
        if plain[name].dtype.kind != kind or not fits:
            return f"its {name} is {plain[name].dtype} {plain[name].shape}"
    if not np.isin(moved, np.arange(count)).all():
        return "moved names images that are not there"
    if not ((plain["share"] >= 0) & (plain["share"] <= 1)).all():
        return "a share is not between 0 and 1"
    if (
        moved.size
        and verify.measure(plain["x_adv"], held.x[moved], settings.ball)[1].any()
    ):
        return "its images are not in the ball"
    return None


def _is_told(meta: Mapping[str, Any], most: int) -> bool:
    """Whether what is not an array is of the kind that `save` writes."""
    try:
        stages = [(float(s), versions.Calls(*c)) for s, c in meta["stages"]]
        numbers = {k: float(v) for k, v in meta["flagged"].items()}
        runner = meta["runner"]
    except (LookupError, TypeError, ValueError, AttributeError):
        return False
    return (
        len(stages) <= most
        and set(numbers) >= set(signs.NUMBERS)
        and (runner is None or isinstance(runner, dict))
    )


def _check_named(settings: Settings) -> None:
    """Raises where only the user can say which model this is."""
    if settings.tag is not None:
        return
    found = stepping.host_calls(
        settings.logits_fn, settings.held.x[:2], stochastic=settings.stochastic
    )
    if found:
        raise ValueError(
            f"`state_dir`: the model calls the host ({', '.join(found)}), so its "
            "program does not tell it from another model whose state may lie there. "
            "Give it a name that is its own, state_tag='my model, weights of May 3', "
            "or leave `state_dir` out."
        )
