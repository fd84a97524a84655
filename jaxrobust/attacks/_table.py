"""Attacks by name, for configs."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args

from jaxrobust import threat
from jaxrobust.array_types import Images, Key, Labels, LogitsFn
from jaxrobust.attacks import _checks
from jaxrobust.attacks.apgd import apgd, apgd_targeted
from jaxrobust.attacks.bim import bim
from jaxrobust.attacks.cw_l2 import cw_l2
from jaxrobust.attacks.cw_linf import cw_linf
from jaxrobust.attacks.deepfool import deepfool
from jaxrobust.attacks.fab import fab
from jaxrobust.attacks.fgsm import fgsm
from jaxrobust.attacks.hop_skip_jump import hop_skip_jump
from jaxrobust.attacks.jsma import jsma
from jaxrobust.attacks.mim import mim
from jaxrobust.attacks.noise import worst_of_noise
from jaxrobust.attacks.pgd import pgd
from jaxrobust.attacks.spsa import spsa
from jaxrobust.attacks.square import square
from jaxrobust.attacks.zoo import zoo

Attack = Callable[[LogitsFn, Images, Labels, Key | None], Images]

_ATTACKS: Mapping[str, Callable[..., Images]] = {
    "apgd": apgd,
    "apgd_targeted": apgd_targeted,
    "ball": worst_of_noise,
    "bim": bim,
    "cw_l2": cw_l2,
    "cw_linf": cw_linf,
    "deepfool": deepfool,
    "fab": fab,
    "fgsm": fgsm,
    "hop_skip_jump": hop_skip_jump,
    "jsma": jsma,
    "mim": mim,
    "pgd": pgd,
    "spsa": spsa,
    "square": square,
    "uniform_noise": worst_of_noise,
    "zoo": zoo,
}
_ARGUMENTS = {"logits_fn", "x", "y", "key", "return"}


def names() -> tuple[str, ...]:
    """Returns the names that `get` knows."""
    return tuple(sorted(_ATTACKS))


def hyperparameters(name: str) -> frozenset[str]:
    """Returns the names of an attack's hyperparameters.

    Raises:
      ValueError: for an unknown name, with the nearest match.
    """
    return frozenset(_attack(name).__annotations__) - _ARGUMENTS


def parameters(name: str) -> Mapping[str, inspect.Parameter]:
    """Returns an attack's hyperparameters with defaults and annotations.

    Raises:
      ValueError: for an unknown name, with the nearest match.
    """
    own = inspect.signature(_attack(name)).parameters
    return {k: v for k, v in own.items() if k not in _ARGUMENTS}


def _attack(name: str) -> Callable[..., Images]:
    if name not in _ATTACKS:
        hint = threat.nearest_match(name, _ATTACKS)
        raise ValueError(f"Unknown attack {name!r}. {hint}")
    return _ATTACKS[name]


def _may_be_none(attack: Callable[..., Images], option: str) -> bool:
    return type(None) in get_args(attack.__annotations__[option])


def get(name: str, **options: Any) -> Attack:
    """Returns an attack with its hyperparameters fixed.

    Args:
      name: one of `names()`, such as 'pgd'; 'ball' is 'uniform_noise'.
      **options: keyword arguments of the attack, such as `eps=8/255`.

    Returns:
      `attack(logits_fn, x, y, key) -> x_adv [B, H, W, C]`.

    Raises:
      ValueError: for an unknown name, with the nearest match, or a value out of range.
      TypeError: for a hyperparameter that is unknown, missing or of the wrong type.
    """
    attack, known = _attack(name), hyperparameters(name)
    for given in options:
        if given not in known:
            hint = threat.nearest_match(given, known)
            raise TypeError(f"Unknown hyperparameter `{given}` of {name}. {hint}")
    missing = known - set(attack.__kwdefaults__ or {}) - set(options)
    if missing:
        raise TypeError(f"Attack {name} needs {', '.join(sorted(missing))}.")
    _checks.check_hyperparameters(
        {
            k: v
            for k, v in options.items()
            if v is not None or not _may_be_none(attack, k)
        }
    )
    _checks.check_types(options, attack.__annotations__)
    return functools.partial(_call, attack, options)


def _call(
    attack: Callable[..., Images],
    options: Mapping[str, Any],
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    key: Key | None = None,
) -> Images:
    return attack(logits_fn, x, y, key=key, **options)
