"""Defences: training objectives as phases of a loss (`base.Defense`).

A new method is a file with a function `method(model, *, attack, ...) -> Defense` and a
line in `FACTORIES`. Arguments of several methods:

    model                a Linen module
    attack               hyperparameters of the training attack
    attack_name          of `attacks.get`; empty for none, where a method has no own
    attack_bn            BatchNorm of the attacked network: `train` (statistics of the
                         attacked batch) or `eval` (running ones)
    attack_warmup_steps  steps over which the attack's radius grows, see `base.at_step`
    warmup_steps         of cross-entropy alone at the start; 0 where the run starts
                         from a trained network
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from jaxrobust import named_code
from jaxrobust._checks import nearest_match
from jaxrobust.attacks import registry
from jaxrobust.defenses.adversarial import adversarial as adversarial
from jaxrobust.defenses.adversarial import ball as ball
from jaxrobust.defenses.adversarial import standard as standard
from jaxrobust.defenses.awp import awp as awp
from jaxrobust.defenses.base import Defense as Defense
from jaxrobust.defenses.base import Phase as Phase
from jaxrobust.defenses.certified import crown_ibp as crown_ibp
from jaxrobust.defenses.certified import ibp as ibp
from jaxrobust.defenses.certified import sabr as sabr
from jaxrobust.defenses.fast import STARTS as STARTS
from jaxrobust.defenses.fast import fast as fast
from jaxrobust.defenses.fpd import fpd as fpd
from jaxrobust.defenses.free import free as free
from jaxrobust.defenses.hat import hat as hat
from jaxrobust.defenses.lbgat import lbgat as lbgat
from jaxrobust.defenses.mart import mart as mart
from jaxrobust.defenses.multi_norm import MIXES as MIXES
from jaxrobust.defenses.multi_norm import multi_norm as multi_norm
from jaxrobust.defenses.pc_lc import pc_lc as pc_lc
from jaxrobust.defenses.pcl import pcl as pcl
from jaxrobust.defenses.pcl import pcl_adversarial as pcl_adversarial
from jaxrobust.defenses.randomised_smoothing import gaussian as gaussian
from jaxrobust.defenses.randomised_smoothing import macer as macer
from jaxrobust.defenses.randomised_smoothing import smooth_adv as smooth_adv
from jaxrobust.defenses.score import score as score
from jaxrobust.defenses.ssc import ssc as ssc
from jaxrobust.defenses.trades import trades as trades

# The objective that knows no method: cross-entropy on the images as they are.
PLAIN = "standard"
FACTORIES: Mapping[str, Callable[..., Defense]] = {
    PLAIN: standard,
    "ball": ball,
    **{name: functools.partial(adversarial, name) for name in registry.for_training()},
    "fast": fast,
    "free": free,
    "ibp": ibp,
    "crown_ibp": crown_ibp,
    "sabr": sabr,
    "gaussian": gaussian,
    "smooth_adv": smooth_adv,
    "macer": macer,
    "trades": trades,
    "mart": mart,
    "hat": hat,
    "lbgat": lbgat,
    "score": score,
    "multi_norm": multi_norm,
    "pc_lc": pc_lc,
    "ssc": ssc,
    "fpd": fpd,
    "pcl": pcl,
    "pcl_adversarial": pcl_adversarial,
}


def factory(name: str) -> Callable[..., Defense]:
    """Returns what builds the objective `name`; raises as `create`."""
    if named_code.names(name):
        return named_code.load("objective", name)
    if name not in FACTORIES:
        hint = nearest_match(name, FACTORIES)
        raise ValueError(f"unknown objective {name!r}. {hint}")
    return FACTORIES[name]


def options_of(name: str) -> Mapping[str, Any]:
    """Returns the options that an objective knows, with defaults; raises as `create`.

    None where there is no default.
    """
    found = inspect.signature(factory(name)).parameters
    return {
        k: None if v.default is inspect.Parameter.empty else v.default
        for k, v in found.items()
    }


def create(name: str, model: nn.Module, options: Mapping[str, Any]) -> Defense:
    """Builds the training objective `name` for `model`.

    Args:
      name: one of `FACTORIES`, or `package.module:function` of the caller's own.
      model: a Linen module.
      options: fields of a config; the factory takes those it knows (`attack`: the
        hyperparameters of the training attack, `attack_bn`, `label_smoothing`, `beta`
        ...), so that one config serves a method and its plainly trained twin. For all
        of them `awp_gamma` above 0 wraps the objective in `awp`, after
        `awp_warmup_steps`.

    Raises:
      ValueError: for an unknown name or an option out of range.
    """
    build, accepted = factory(name), options_of(name)
    chosen = {k: v for k, v in options.items() if k in accepted}
    gamma = options.get("awp_gamma", 0)
    return awp(build(model, **chosen), gamma, options.get("awp_warmup_steps", 0))
