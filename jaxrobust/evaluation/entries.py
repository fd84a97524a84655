"""One attack of a suite: what it is called, its threat, and how it is run."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import numpy as np
from jaxtyping import Int

from jaxrobust import attacks
from jaxrobust.array_types import Bounds, Norm, Variables
from jaxrobust.attacks import registry
from jaxrobust.evaluation import step, verify
from jaxrobust.evaluation.setting import Setting

Keep = int | Int[np.ndarray, "keep"]
Pass = Callable[[Setting, Keep], step.EvalRun]


@dataclasses.dataclass(frozen=True)
class Entry:
    """An attack of `attacks.get` and its threat; `label` is its name in the suite.

    Other kinds override `make` (where it needs the network's parts) or `prepare` (where
    it is more than one function inside the compiled step: `in_step` is false then).
    Without a radius `eps` it looks for the smallest perturbation in its norm, and is
    `written` as 'any', else as the config writes it: '8/255'. Where its `threat` is no
    ball it has no radius either; the norm is one in which its size is told.
    """

    in_step: ClassVar[bool] = True

    label: str
    name: str
    norm: Norm
    eps: float | None
    written: str
    hyperparameters: Mapping[str, Any]

    @property
    def threat(self) -> str:
        """What it may do where that is no ball of a norm, in a word; else ''."""
        return registry.threat(self.name)

    def build(self, **changes: Any) -> step.Attack:
        """Returns the attack, `(logits_fn, x, y, key) -> x_adv`; says what is wrong."""
        options = {**self.hyperparameters, **changes}
        if self.threat:
            return attacks.get(self.name, **options)
        if "norm" in attacks.hyperparameters(self.name):
            options["norm"] = self.norm
        return attacks.get(self.name, eps=self.eps, **options)

    def check(self) -> None:
        """Raises as `build`: a mistake is said now, not after hours."""
        self.build()

    def make(self, model: nn.Module, variables: Variables) -> step.Attack:
        """Returns the attack on one network, inside the compiled step."""
        del model, variables
        return self.build()

    def prepare(self, setting: Setting) -> Pass:
        """Returns what attacks the examples of a setting like this one.

        It is called once per block of examples, always with the same compiled step.
        """
        return self.passes(self.compiled(setting))

    def compiled(self, setting: Setting) -> step.EvalStep:
        """Returns the compiled step of an attack that is `in_step`."""
        return step.make_eval_step(
            setting.model, make_attack=self.make, precision=setting.precision
        )

    def passes(self, run_step: step.EvalStep) -> Pass:
        """Returns the pass that runs a step and checks its images."""
        return lambda part, keep: part.run(
            run_step, self.label, keep=keep, ball=self.ball()
        )

    def ball(self) -> verify.Ball:
        """Returns the threat that its images must keep to."""
        bounds: Bounds = self.hyperparameters.get("bounds", (0.0, 1.0))
        return verify.Ball(self.eps, self.norm, bounds)

    def describe(self) -> dict[str, Any]:
        """Returns what results.json says about the attack itself."""
        # `loss` is the mean cross-entropy of the attacked images there.
        names = {"loss": "attack_loss"}
        return {
            "label": self.label,
            "name": self.name,
            "norm": self.norm,
            "eps": self.eps,
            "eps_text": self.written,
            **({"threat": self.threat} if self.threat else {}),
            **{names.get(k, k): v for k, v in self.hyperparameters.items()},
        }
