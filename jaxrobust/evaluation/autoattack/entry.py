"""AutoAttack as one attack of a suite."""

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np
from etils import epath

from jaxrobust import models, parallel
from jaxrobust.attacks import autoattack_versions as versions
from jaxrobust.attacks import stepping
from jaxrobust.evaluation import step, verify
from jaxrobust.evaluation.autoattack.ensemble import autoattack
from jaxrobust.evaluation.autoattack.setup import slots_for
from jaxrobust.evaluation.entries import Entry, Pass
from jaxrobust.evaluation.network import CompiledNetwork
from jaxrobust.evaluation.setting import Devices, Setting
from jaxrobust.runtime.files import own_folder

_FIELDS = {"version": str, "slots": int}
OPTIONS = {"eps": str, "norm": str, **_FIELDS}  # as configs write them


@dataclasses.dataclass(frozen=True)
class AutoAttack(Entry):
    """AutoAttack; hyperparameters are `version` and `slots` (0 = its own choice).

    Its state is kept in `folder` while it runs; '' keeps none.
    """

    in_step: ClassVar[bool] = False

    folder: str = ""

    @property
    def version(self) -> str:
        """Standard, plus or rand."""
        return self.hyperparameters.get("version", "standard")

    def check(self) -> None:
        """Raises for an unknown version or field, or a missing radius."""
        versions.plan(self.version, self.norm, 10)
        for name in self.hyperparameters:
            if name not in _FIELDS:
                raise TypeError(
                    f"Unknown hyperparameter `{name}` of autoattack; known: "
                    f"{', '.join(_FIELDS)}."
                )
        if slots := self.hyperparameters.get("slots"):
            slots_for(slots, jax.device_count(), 1)
        if not self.eps:
            raise ValueError(f"autoattack needs a positive `eps`, got {self.written}.")

    def kept_in(self, folder: epath.PathLike, slots: int) -> "AutoAttack":
        """Returns the same with a folder for its state and, if it has none, slots."""
        options = {"version": self.version, "slots": slots, **self.hyperparameters}
        return dataclasses.replace(self, folder=str(folder), hyperparameters=options)

    def prepare(self, setting: Setting) -> Pass:
        """Returns a pass that runs the ensemble and goes on where it was killed."""
        del setting
        return self._run

    def _run(self, setting: Setting, keep: Any) -> step.EvalRun:
        devices = Devices(setting.mesh or parallel.make_mesh(1))
        # On a mesh of more than one device every device gets a copy.
        variables = devices.put_copies(setting.variables)
        logits_fn = models.logits_fn(setting.model, variables)
        x, keys = setting.images.astype(np.float32) / 255, setting.keys(self.label)
        draws = getattr(setting.model, "draws", 0)
        # Nothing tells such a network from another: its state would be anybody's.
        hosted = stepping.calls_on_host(logits_fn, x[:2])
        assert self.eps is not None
        result = autoattack(
            logits_fn,
            x,
            setting.labels,
            key=keys,
            eps=self.eps,
            norm=self.norm,
            version=self.version,
            slots=self.hyperparameters.get("slots") or None,
            state_dir=None if hosted or not self.folder else own_folder(self.folder),
            progress=setting.progress or False,
            mesh=devices.mesh,
            precision=step.FAST if setting.fast else setting.precision,
            stochastic=draws > 0,
            draws=draws or None,
        )
        with jax.default_matmul_precision(setting.precision):
            each = max(min(setting.batch_size, len(x)) // devices.count, 1)
            batch = each * devices.count
            network = CompiledNetwork(
                logits_fn, x[0], batch, devices, stochastic=draws > 0
            )
            logits = network(result.x_adv, keys)
        kept = result.x_adv[slice(keep) if isinstance(keep, int) else keep]
        distance = verify.check_ball(result.x_adv, x, self.ball())
        return dataclasses.replace(
            step.summarise(logits, setting.labels, kept, distance),
            correct=result.robust,
            share=result.correct_share if result.draws > 1 else None,
            stages={stage.name: stage.robust for stage in result.stages},
            costs={
                stage.name: {"seconds": stage.seconds, **stage.calls._asdict()}
                for stage in result.stages
            },
            flags=result.flags,
            notes=result.replaced,
        )
