"""The suite `adaptive`: attacks that know the defence they are up against.

An attack that stays on the cross-entropy of the logits can fail for reasons that are
not robustness. Here the loss, or the network that is attacked, is chosen by what each
method does (Carlini et al. 2019, arXiv 1902.06705, section 4; Tramer et al. 2020, arXiv
2002.08347). What counts as fooled is always the whole, unchanged network's prediction.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust import analysis, attacks, losses, models
from jaxrobust.array_types import Images, Labels, Norm, PerExample, Variables
from jaxrobust.attacks.registry import AUTOATTACK
from jaxrobust.evaluation import step
from jaxrobust.evaluation.entries import Entry
from jaxrobust.evaluation.protocols import Fields, Table, attack
from jaxrobust.evaluation.text import exact

STEPS = 100
RESTARTS = 5


def without_tanh(model: nn.Module) -> nn.Module:
    """Returns an FPD network whose logits are those in front of the tanh."""
    return model.clone(constrained=False)


def without_decoder(model: nn.Module) -> nn.Module:
    """Returns an FPD network that classifies the image itself, nothing denoised."""
    off = ("restoration", "front_denoising", "back_denoising", "input_denoising")
    return model.clone(constrained=False, **dict.fromkeys(off, False))


def prototypes(model: nn.Module, variables: Variables) -> Any:
    """Returns cross-entropy plus how near features are to another class's prototype.

    Per layer with centres (auxiliary branches too) log(d_own / d_other), with the
    Euclidean distances to the centre of the own class and to the nearest other: free of
    the layer's scale, positive iff another prototype is nearer. Without centres in
    `variables['extra']['proximity']` the cross-entropy alone is left.
    """
    centers = centers_of(variables)

    def loss(x: Images, y: Labels) -> PerExample:
        out: Any = model.apply(variables, x, train=False)
        total = losses.cross_entropy(out.logits, y)
        for layer, table in centers.items():
            own, other = analysis.prototype_distances(out.features[layer], y, table)
            total += jnp.log(own) - jnp.log(other)
        return total

    return attacks.on_input(loss)


def centers_of(variables: Variables) -> Mapping[str, Any]:
    """Returns the class centres [K, D] by layer that training left, if any (PCL)."""
    extra = variables.get("extra")
    found = extra.get("proximity") if isinstance(extra, Mapping) else None
    return found if isinstance(found, Mapping) else {}


NETWORKS: Mapping[str, Callable[[nn.Module], nn.Module]] = {
    "without_tanh": without_tanh,
    "without_decoder": without_decoder,
}
LOSSES: Mapping[str, Callable[[nn.Module, Variables], Any]] = {"prototypes": prototypes}


@dataclasses.dataclass(frozen=True)
class Adaptive(Entry):
    """An attack whose loss, or network of `NETWORKS`, is for a defence, and `why`."""

    network: str = ""
    why: str = ""

    def check(self) -> None:
        """Raises as `build`; losses of `LOSSES` need a network and are not built."""
        made = self.hyperparameters.get("loss") in LOSSES
        self.build(**({"loss": "ce"} if made else {}))

    def make(self, model: nn.Module, variables: Variables) -> step.Attack:
        """Returns the attack on one network, inside the compiled step."""
        make_loss = LOSSES.get(self.hyperparameters.get("loss", ""))
        changes = {"loss": make_loss(model, variables)} if make_loss else {}
        built = self.build(**changes)
        attacked = NETWORKS[self.network](model) if self.network else model
        logits_fn = models.logits_fn(attacked, variables)
        return lambda _, x, y, key: built(logits_fn, x, y, key)

    def describe(self) -> dict[str, Any]:
        """Returns what results.json says about the attack itself."""
        own = {"network": self.network} if self.network else {}
        return super().describe() | own | {"why": self.why}


def method_of(config: Mapping[str, Any]) -> str:
    """Names a config's defence: `fpd`, `pcl`, `pc_lc`, `ssc`, `ssp`, or '' (others)."""
    model = config.get("model", {}).get("name", "")
    objective = config.get("objective", {}).get("name", "")
    if model.startswith("fpd_"):
        return "fpd"
    if objective.startswith("pcl") or (model == "pcl_resnet" and not objective):
        return "pcl"
    if objective in _TABLES:
        return objective
    return "ssp" if model.startswith("ssp_") else ""


def table(method: str, eps: str, norm: Norm = "linf") -> Table:
    """Returns the attacks on a defence (of `method_of`), as a config writes them.

    AutoAttack is one of them, so that this suite is never weaker: it brings targets,
    FAB and a black box of 5,000 queries for where a gradient misses what is there.
    """
    long = {"steps": STEPS, "restarts": RESTARTS}
    pgd = attack("pgd", eps, norm, **long, step_size=str(exact(eps) / 10))
    apgd = attack("apgd", eps, norm, **long)

    def using(base: Fields) -> Make:
        return lambda loss, why, **more: {**base, "loss": loss, "why": why, **more}

    own = _TABLES.get(method, _any)(using(pgd), using(apgd))
    return {**own, AUTOATTACK: attack(AUTOATTACK, eps, norm)}


# A loss and the reason for it (and a network of `NETWORKS`) to an attack.
Make = Callable[..., Fields]


def _any(pgd: Make, apgd: Make) -> Table:
    margin = (
        "The margin of the logits keeps its gradient where the cross-entropy's "
        "vanishes; several random starts."
    )
    dlr = "The DLR loss does not depend on the scale of the logits."
    return {"pgd_margin": pgd("margin", margin), "apgd_dlr": apgd("dlr", dlr)}


def _pcl(pgd: Make, apgd: Make) -> Table:
    why = (
        "Training pulls features to prototypes, in auxiliary branches too: the loss is "
        "the cross-entropy plus, at each, how near they are to another class's."
    )
    return {
        "apgd_prototypes": apgd("prototypes", why),
        "pgd_prototypes": pgd("prototypes", why),
        **_any(pgd, apgd),
    }


def _fpd(pgd: Make, apgd: Make) -> Table:
    bare = {"network": "without_tanh"}
    why = (
        "The tanh on the logits flattens every loss of them: the attack goes through "
        "decoder and encoder, end to end, to the logits in front of it"
    )
    dlr = f"{why}, by a loss without their scale."
    margin = f"{why}, by fixed steps on their margin."
    stretched = (
        "Restoration and denoising stretch gradients over many orders of magnitude: "
        "the images are made on the encoder and classifier alone and handed to the "
        "whole network."
    )
    return {
        "apgd_without_tanh": apgd("ce", f"{why}.", **bare),
        "apgd_dlr_without_tanh": apgd("dlr", dlr, **bare),
        "pgd_without_tanh": pgd("margin", margin, **bare),
        "pgd_without_decoder": pgd("margin", stretched, network="without_decoder"),
    }


def _logits(pgd: Make, apgd: Make) -> Table:
    why = (
        "Training drives probabilities to 0 and 1, where the cross-entropy has no "
        "gradient left: the loss is the margin of the logits, with many steps and "
        "starts"
    )
    return {
        "pgd_margin": pgd("margin", f"{why}."),
        "apgd_margin": apgd("margin", f"{why}; the step adapts."),
        "apgd_dlr": _any(pgd, apgd)["apgd_dlr"],
    }


def _ssp(pgd: Make, apgd: Make) -> Table:
    why = (
        "The integrator is differentiable end to end, so the gradient is taken through "
        "every evaluation of f; the step adapts to how it bends"
    )
    return {
        "apgd_margin": apgd("margin", f"{why}."),
        "apgd_dlr": apgd("dlr", f"{why}; a loss without the scale of the logits."),
        "pgd_margin": _any(pgd, apgd)["pgd_margin"],
    }


_TABLES: Mapping[str, Callable[[Make, Make], Table]] = {
    "pcl": _pcl,
    "fpd": _fpd,
    "pc_lc": _logits,
    "ssc": _logits,
    "ssp": _ssp,
}
