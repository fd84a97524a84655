"""What there is to know about each attack, said once; attacks by name.

Configs, suites, flags, the report and the tests read the traits here. A new attack is
its file and an entry in `_ENTRIES`; one from outside is `package.module:function`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from jaxrobust import named_code
from jaxrobust._checks import NORMS as NORMS
from jaxrobust._checks import SPARSE, nearest_match
from jaxrobust.array_types import Images, Key, Labels, LogitsFn, Norm
from jaxrobust.attacks import _costs, _outside
from jaxrobust.attacks._checks import check_options
from jaxrobust.attacks._checks import read_annotation as read_annotation
from jaxrobust.attacks._costs import Cost as Cost
from jaxrobust.attacks._costs import Options as Options
from jaxrobust.attacks.apgd import apgd, apgd_targeted
from jaxrobust.attacks.bandits import bandits
from jaxrobust.attacks.boundary import boundary
from jaxrobust.attacks.brendel_bethge import brendel_bethge
from jaxrobust.attacks.cw_l2 import cw_l2
from jaxrobust.attacks.cw_linf import cw_linf
from jaxrobust.attacks.ddn import ddn
from jaxrobust.attacks.deepfool import deepfool
from jaxrobust.attacks.dim import admix, dim, sim, tim
from jaxrobust.attacks.ead import ead
from jaxrobust.attacks.elastic import elastic
from jaxrobust.attacks.fab import fab
from jaxrobust.attacks.fmn import fmn
from jaxrobust.attacks.geoda import geoda
from jaxrobust.attacks.hop_skip_jump import hop_skip_jump
from jaxrobust.attacks.hsv import hsv
from jaxrobust.attacks.jsma import jsma
from jaxrobust.attacks.mim import mim
from jaxrobust.attacks.mixed_pgd import mixed_pgd
from jaxrobust.attacks.msd import msd
from jaxrobust.attacks.multi_targeted import multi_targeted
from jaxrobust.attacks.nes import nes
from jaxrobust.attacks.nim import nim, vmim, vnim
from jaxrobust.attacks.noise import worst_of_noise
from jaxrobust.attacks.one_pixel import one_pixel
from jaxrobust.attacks.patch import patch
from jaxrobust.attacks.pgd import bim, fgsm, pgd
from jaxrobust.attacks.pgd_0 import pgd_0
from jaxrobust.attacks.pixle import pixle
from jaxrobust.attacks.rays import rays
from jaxrobust.attacks.recolor import recolor
from jaxrobust.attacks.rotate_translate import (
    rotate_translate,
    rotate_translate_gradient,
)
from jaxrobust.attacks.sigma_zero import sigma_zero
from jaxrobust.attacks.simba import simba
from jaxrobust.attacks.sparse_rs import sparse_rs
from jaxrobust.attacks.sparsefool import sparsefool
from jaxrobust.attacks.spsa import spsa
from jaxrobust.attacks.square import square
from jaxrobust.attacks.stadv import stadv
from jaxrobust.attacks.surfree import surfree
from jaxrobust.attacks.zoo import zoo

Attack = Callable[[LogitsFn, Images, Labels, Key | None], Images]
Access = Literal["gradient", "scores", "decisions"]
Goal = Literal["radius", "smallest"]

_ARGUMENTS = ("logits_fn", "x", "y", "key")
# The ensemble of `evaluation.autoattack`: a name in configs that no function here has.
AUTOATTACK = "autoattack"


class Traits(NamedTuple):
    """One attack.

    Attributes:
      function: `(logits_fn, x, y, *, key, eps, ...) -> x_adv`.
      cost: of its options.
      access: what it asks of the model.
      goal: the worst point within a radius, or the smallest perturbation.
      norms: that it has.
      norm: the one it takes where none is named; None: that of the evaluation.
      strong: reliable enough that a weaker attack which finds more is a warning sign.
      weak: what it is called where it finds more than a strong one; '' for others.
      transfers: made so that its images fool other models too.
      fixed_steps: steps of one length, or none: stronger attacks usually find more.
      threat: what it may do where that is no ball of a norm, in a word; '' for balls.
        Such an attack has neither `eps` nor `norm`, and its size in options of its own.
    """

    function: Callable[..., Images]
    cost: Callable[[Options], Cost]
    access: Access = "gradient"
    goal: Goal = "radius"
    norms: tuple[Norm, ...] = NORMS
    norm: Norm | None = None
    strong: bool = False
    weak: str = ""
    fixed_steps: bool = False
    transfers: bool = False
    threat: str = ""

    @property
    def single_step(self) -> bool:
        """Whether it follows one gradient, as far as the radius unless told."""
        return bool(self.weak) and self.access == "gradient"


_smallest = functools.partial(Traits, goal="smallest")
# Made to fool other models: on their own they are weaker than plain steps.
_transferable = functools.partial(
    Traits, cost=_costs.of_views, norms=("linf", "l2"), transfers=True
)
_black_box = functools.partial(Traits, access="scores", weak="a black-box attack")
_decisions = functools.partial(
    _black_box, cost=_costs.of_queries, access="decisions", goal="smallest"
)
_sparse = functools.partial(_black_box, norms=SPARSE, norm="l0_pixels")

_ENTRIES: dict[str, Traits] = {
    "admix": _transferable(admix),
    "apgd": Traits(apgd, _costs.of_apgd, strong=True),
    "apgd_targeted": Traits(apgd_targeted, _costs.of_apgd, strong=True),
    "bandits": _black_box(bandits, _costs.of_steps_of_three, norms=("linf", "l2")),
    "bim": Traits(bim, _costs.of_steps, strong=True, fixed_steps=True),
    "boundary": _decisions(boundary, norms=("l2",), norm="l2"),
    "brendel_bethge": _smallest(
        brendel_bethge, _costs.of_boundary_steps, norms=(*NORMS, "l0")
    ),
    "cw_l2": _smallest(cw_l2, _costs.of_binary_steps, norms=("l2",), norm="l2"),
    "cw_linf": _smallest(
        cw_linf, lambda o: Cost(o.rounds * o.steps, 2), norms=("linf",), norm="linf"
    ),
    "ddn": _smallest(ddn, _costs.of_descent, norms=("l2",), norm="l2"),
    "deepfool": _smallest(
        deepfool,
        lambda o: Cost(o.steps * o.classes, 1),
        norms=("l2", "linf"),
        norm="l2",
    ),
    "dim": _transferable(dim),
    "ead": _smallest(ead, _costs.of_descents, norms=("l1",), norm="l1"),
    "fab": _smallest(fab, _costs.of_fab, strong=True),
    "fgsm": Traits(fgsm, _costs.of_steps, weak="a single step", fixed_steps=True),
    "fmn": _smallest(fmn, _costs.of_descent, norms=(*NORMS, "l0")),
    "geoda": _decisions(geoda, norms=("l2", "linf"), norm="l2"),
    "hop_skip_jump": _decisions(hop_skip_jump, norms=("l2", "linf")),
    "jsma": _smallest(
        jsma,
        lambda o: Cost(2 * int(o.size * o.gamma / 2), 2),
        norms=("l1", "l2", "linf"),
        norm="l1",
    ),
    "mim": Traits(mim, _costs.of_steps, strong=True, fixed_steps=True, transfers=True),
    "mixed_pgd": Traits(mixed_pgd, _costs.of_steps, strong=True, fixed_steps=True),
    "multi_targeted": Traits(
        multi_targeted, _costs.of_targets, strong=True, fixed_steps=True
    ),
    "nes": _black_box(nes, _costs.of_estimates),
    "nim": _transferable(nim),
    "one_pixel": _sparse(one_pixel, _costs.of_population, norms=("l0_pixels",)),
    "pgd": Traits(pgd, _costs.of_steps, strong=True, fixed_steps=True),
    "pgd_0": Traits(pgd_0, _costs.of_gradients, norms=SPARSE, norm="l0_pixels"),
    "pixle": _sparse(pixle, _costs.of_search, norms=("l0_pixels",)),
    "rays": _decisions(rays, norms=("linf",), norm="linf"),
    "sigma_zero": _smallest(sigma_zero, _costs.of_descent, norms=("l0",), norm="l0"),
    "sim": _transferable(sim),
    "simba": _black_box(simba, _costs.of_search),
    "sparse_rs": _sparse(sparse_rs, _costs.of_search),
    "sparsefool": _smallest(
        sparsefool,
        lambda o: Cost(o.steps * (o.classes + 1), 1),
        norms=("l0",),
        norm="l0",
    ),
    "spsa": _black_box(spsa, _costs.of_estimates, norm="linf"),
    "square": _black_box(square, _costs.of_search),
    "surfree": _decisions(surfree, norms=("l2",), norm="l2"),
    "tim": _transferable(tim),
    "uniform_noise": Traits(
        worst_of_noise,
        lambda o: Cost(0, 2 * o.draws),  # a look, and a score
        access="scores",
        weak="random noise",
        fixed_steps=True,
    ),
    "vmim": _transferable(vmim),
    "vnim": _transferable(vnim),
    "zoo": _black_box(zoo, _costs.of_zoo, goal="smallest", norms=("l2",), norm="l2"),
}
# Those whose threat is no ball.
_change = functools.partial(Traits, norms=())
_OTHERS: dict[str, Traits] = {
    "elastic": _change(elastic, _costs.of_changes, threat="flow"),
    "hsv": _change(hsv, _costs.of_draws, access="scores", threat="colour"),
    "msd": _change(msd, lambda o: Cost(o.steps, 3 * o.steps + 1), threat="union"),
    "patch": _change(patch, _costs.of_patch, threat="patch"),
    "recolor": _change(recolor, _costs.of_changes, threat="colour"),
    "rotate_translate": _change(
        rotate_translate, _costs.of_poses, access="scores", threat="spatial"
    ),
    "rotate_translate_gradient": _change(
        rotate_translate_gradient, _costs.of_changes, threat="spatial"
    ),
    "stadv": _change(stadv, _costs.of_changes, threat="flow"),
}
_ALL = _ENTRIES | _OTHERS
# As training objectives call it.
_ALIASES = {"ball": "uniform_noise"}


def names() -> tuple[str, ...]:
    """Returns the names that `get` knows."""
    return tuple(sorted({*_ALL, *_ALIASES}))


def known(name: str) -> bool:
    """Whether there is such an attack, or the name is of the form of a user's own."""
    return name in _ALL or name in _ALIASES or named_code.names(name)


def traits(name: str) -> Traits | None:
    """Returns what is known of an attack; None of those from outside. Runs nothing."""
    return _ALL.get(_ALIASES.get(name, name))


def table() -> Mapping[str, Traits]:
    """Returns the traits, by name, of attacks whose threat is a ball; no aliases."""
    return MappingProxyType(_ENTRIES)


def other_threats() -> Mapping[str, Traits]:
    """Returns the traits, by name, of the other attacks of jaxrobust."""
    return MappingProxyType(_OTHERS)


def threat(name: str) -> str:
    """Returns what an attack may do where that is no ball of a norm; '' for balls.

    A function from outside says so by an attribute `threat`, a word.
    """
    if (entry := traits(name)) is not None:
        return entry.threat
    return getattr(_function(name), "threat", "") if named_code.names(name) else ""


def is_strong(name: str) -> bool:
    """Whether an attack is reliable enough to be a weak one's measure."""
    entry = traits(name)
    return name == AUTOATTACK or (entry is not None and entry.strong)


def for_training() -> tuple[str, ...]:
    """Returns the names of attacks that are cheap enough to train against each.

    A step of them is one gradient.
    """
    fixed = (name for name, entry in _ENTRIES.items() if entry.fixed_steps)
    return tuple(
        name
        for name in filter(needs_gradient, fixed)
        if cost(name, steps=1, norm="linf").gradients == 1
    )


def needs_gradient(name: str) -> bool:
    """Whether an attack asks for gradients; one from outside may."""
    entry = traits(name)
    return entry is None or entry.access == "gradient"


def without_gradient() -> tuple[str, ...]:
    """Returns the names of attacks that never ask for a gradient."""
    return tuple(name for name in sorted(_ALL) if not needs_gradient(name))


def on_host(name: str) -> bool:
    """Whether an attack cannot be traced: one from outside with `on_host = True`.

    Such a one is called with arrays, never inside a compiled program.
    """
    return named_code.names(name) and getattr(_function(name), "on_host", False)


def cost(name: str, *, classes: int = 10, size: int = 3072, **options: Any) -> Cost:
    """Returns how often an attack evaluates the model for an image, at most.

    Args:
      name: of an attack of jaxrobust.
      classes: that the model tells apart.
      size: numbers per image, H W C.
      **options: of the attack, where they are not the defaults.

    Raises:
      ValueError: for an unknown name, or one from outside.
    """
    entry = traits(name)
    if entry is None:
        raise ValueError(f"nothing is known of the cost of attack {name!r}.")
    defaults = {k: v.default for k, v in parameters(name).items()}
    own = Options(defaults | options, classes=classes, size=size)
    draws = own.get("eot_samples", 1)
    gradients, calls = entry.cost(own)
    if entry.access != "gradient" and "queries" in own:
        draws = 1  # a query is one draw
    return Cost(draws * gradients, draws * calls)


def hyperparameters(name: str) -> frozenset[str]:
    """Returns the names of an attack's hyperparameters.

    Raises:
      ValueError: for an unknown name, with the nearest match.
    """
    return frozenset(parameters(name))


def parameters(name: str) -> Mapping[str, inspect.Parameter]:
    """Returns `hyperparameters`, with their defaults and annotations."""
    own = _signature(name).parameters.items()
    named = {n: p for n, p in own if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    return {n: p for n, p in named.items() if n not in _ARGUMENTS}


def _signature(name: str) -> inspect.Signature:
    function = _function(name)
    outside = named_code.names(name)
    return _outside.signature(function) if outside else inspect.signature(function)


def _function(name: str) -> Callable[..., Images]:
    if named_code.names(name):
        return _outside.load(name)
    entry = traits(name)
    if entry is None:
        hint = nearest_match(name, names())
        raise ValueError(f"Unknown attack {name!r}. {hint}")
    return entry.function


def get(name: str, **options: Any) -> Attack:
    """Returns an attack with its hyperparameters fixed.

    Args:
      name: one of `names()`, such as 'pgd'; 'ball' is 'uniform_noise'. Or a function
        of your own with the arguments of ours, `package.module:function`, which is
        imported: pass no name that came from a file.
      **options: keyword arguments of the attack, such as `eps=8/255`.

    Returns:
      `attack(logits_fn, x, y, key) -> x_adv [B, H, W, C]`.

    Raises:
      ValueError: for an unknown name, with the nearest match, or a value out of range.
      TypeError: for a hyperparameter that is unknown, missing or of the wrong type.
    """
    own, outside = parameters(name), named_code.names(name)
    if not (outside and _outside.takes_any(_function(name))):
        for given in options:
            if given not in own:
                hint = _outside.hint(given) if outside else ""
                hint = hint or nearest_match(given, own)
                raise TypeError(f"Unknown hyperparameter `{given}` of {name}. {hint}")
    needed = {k for k, v in own.items() if v.default is inspect.Parameter.empty}
    if missing := needed - set(options):
        raise TypeError(f"Attack {name} needs {', '.join(sorted(missing))}.")
    check_options({k: v for k, v in options.items() if k in own}, own)
    if outside:
        return _outside.checked(name, _function(name), options)
    return functools.partial(_call, _function(name), options)


def _call(
    function: Callable[..., Images],
    options: Mapping[str, Any],
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    key: Key | None = None,
) -> Images:
    """An attack with its options; at the top of a module, so that it can be pickled."""
    return function(logits_fn, x, y, key=key, **options)
