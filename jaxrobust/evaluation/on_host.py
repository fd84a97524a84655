"""Attacks of other libraries in a suite: they run on the host, not in a program."""

import dataclasses
from typing import Any, ClassVar

import jax

from jaxrobust import models
from jaxrobust.array_types import Variables
from jaxrobust.evaluation import step
from jaxrobust.evaluation.entries import Entry, Pass
from jaxrobust.evaluation.setting import Setting


@dataclasses.dataclass(frozen=True)
class OnHost(Entry):
    """An attack that `registry.on_host` tells of; only the network is compiled."""

    in_step: ClassVar[bool] = False

    def prepare(self, setting: Setting) -> Pass:
        """Returns a pass that calls the attack with arrays, batch by batch.

        Raises:
          ValueError: on several processes, each of which has a part of a batch alone,
            and of a randomised network.
        """
        if getattr(setting.model, "draws", 0):
            raise ValueError(
                f"attack {self.label!r} is of another library and has no keys to give "
                "to a randomised network."
            )
        if jax.process_count() > 1:
            raise ValueError(
                f"attack {self.label!r} is of another library and runs on the host: "
                "evaluate it on one process."
            )
        attack = self.build()
        logits_of = step.classifier(setting.model, setting.precision)

        def run(
            variables: Variables, images: Any, labels: Any, keys: Any
        ) -> dict[str, Any]:
            with jax.default_matmul_precision(setting.precision):
                logits_fn = models.logits_fn(setting.model, variables)
                x_adv = attack(logits_fn, step.to_float(images), labels, keys)
            return {"logits": logits_of(variables, x_adv), "x_adv": x_adv}

        return self.passes(run)
