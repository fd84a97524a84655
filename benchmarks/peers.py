"""What an attack here is compared with: the peers' attacks at the same settings."""

import math
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Tensor = Any
Peer = Callable[[Any, Tensor, Tensor], Tensor]

EPS = {"linf": 0.1, "l2": 1.5}
STEPS = {"steps": 20, "step_size": 0.0125}
SEARCH = {"binary_steps": 5, "steps": 200, "lr": 0.05, "initial_const": 1.0}


class Case(NamedTuple):
    """One attack of ours, and the same one of others.

    `norm` is that of distances, `eps` the radius, None: the smallest perturbation.
    """

    attack: str
    norm: str
    eps: float | None
    options: Mapping[str, Any]
    peers: Mapping[str, Peer]


def torchattacks_(name: str, **options: Any) -> Peer:
    """An attack of torchattacks, by class."""

    def run(net: Any, x: Tensor, y: Tensor) -> Tensor:
        import torchattacks  # pyright: ignore[reportMissingImports]

        return getattr(torchattacks, name)(net, **options)(x, y)

    return run


def adv_lib_(name: str, **options: Any) -> Peer:
    """An attack of adv-lib, by function."""

    def run(net: Any, x: Tensor, y: Tensor) -> Tensor:
        # It imports them for a distance and for plots that are not used here.
        for missing in ("torchvision", "visdom"):
            stand_in: Any = types.SimpleNamespace(models=None, Visdom=None)
            sys.modules.setdefault(missing, stand_in)
        import adv_lib.attacks  # pyright: ignore[reportMissingImports]

        return getattr(adv_lib.attacks, name)(net, x, y, **options)

    return run


def foolbox_(name: str, eps: float | None = None, **options: Any) -> Peer:
    """An attack of Foolbox, by class."""

    def run(net: Any, x: Tensor, y: Tensor) -> Tensor:
        import foolbox  # pyright: ignore[reportMissingImports]
        from foolbox.models import pytorch  # pyright: ignore[reportMissingImports]

        model = pytorch.PyTorchModel(net, bounds=(0, 1), device="cpu")
        attack = getattr(foolbox.attacks, name)(**options)
        return attack(model, x, y, epsilons=eps)[0 if eps is None else 1]

    return run


def cases() -> list[Case]:
    """Returns all comparisons, the quick ones first."""
    return [*_in_a_ball(), *_transferable(), *_smallest(), *_black_boxes()]


def _in_a_ball() -> list[Case]:
    eps, steps, step = EPS["linf"], STEPS["steps"], STEPS["step_size"]
    own = {"eps": eps, "alpha": step, "steps": steps}
    apgd = {"eps": eps, "n_iter": 100, "loss_function": "ce", "norm": math.inf}
    return [
        Case("fgsm", "linf", eps, {}, {"torchattacks": torchattacks_("FGSM", eps=eps)}),
        Case(
            "pgd",
            "linf",
            eps,
            STEPS,
            {
                "torchattacks": torchattacks_("PGD", **own),
                "foolbox": foolbox_("LinfPGD", eps, steps=steps, abs_stepsize=step),
            },
        ),
        Case(
            "apgd",
            "linf",
            eps,
            {"steps": 100},
            {
                "torchattacks": torchattacks_("APGD", eps=eps, steps=100),
                "adv-lib": adv_lib_("apgd", **apgd),
            },
        ),
    ]


def _transferable() -> list[Case]:
    eps = EPS["linf"]
    own = {"eps": eps, "alpha": STEPS["step_size"], "steps": STEPS["steps"]}
    same = own | {"decay": 1.0}
    diverse: Mapping[str, Any] = {"resize": 0.9, "share": 0.5}
    pairs: dict[str, tuple[Mapping[str, Any], Peer]] = {
        "mim": ({}, torchattacks_("MIFGSM", **same)),
        "nim": ({}, torchattacks_("NIFGSM", **same)),
        "dim": (diverse, torchattacks_("DIFGSM", **same)),
        "tim": (diverse, torchattacks_("TIFGSM", **same)),
        "sim": ({"nesterov": True}, torchattacks_("SINIFGSM", **same, m=5)),
        "vmim": ({}, torchattacks_("VMIFGSM", **same, N=5)),
        "vnim": ({}, torchattacks_("VNIFGSM", **same, N=5)),
    }
    return [
        Case(name, "linf", eps, {**STEPS, **options}, {"torchattacks": peer})
        for name, (options, peer) in pairs.items()
    ]


Row = tuple[str, str, Mapping[str, Any], Mapping[str, Peer]]


def _smallest() -> list[Case]:
    found: list[Row] = [
        (
            "deepfool",
            "l2",
            {},
            {
                "adv-lib": adv_lib_("df", steps=50),
                "foolbox": foolbox_("L2DeepFoolAttack", steps=50),
                "torchattacks": torchattacks_("DeepFool", steps=50),
            },
        ),
        (
            "ddn",
            "l2",
            {"steps": 100},
            {
                "adv-lib": adv_lib_("ddn", steps=100, levels=None),
                "foolbox": foolbox_("DDNAttack", steps=100),
            },
        ),
        *(
            (
                "fmn",
                norm,
                {"steps": 100},
                {"adv-lib": adv_lib_("fmn", steps=100, norm=p), "foolbox": own},
            )
            for norm, p, own in (
                ("linf", math.inf, foolbox_("LInfFMNAttack", steps=100)),
                ("l2", 2, foolbox_("L2FMNAttack", steps=100)),
                ("l1", 1, foolbox_("L1FMNAttack", steps=100)),
                ("l0", 0, foolbox_("L0FMNAttack", steps=100)),
            )
        ),
        (
            "sigma_zero",
            "l0",
            {"steps": 300},
            {"adv-lib": adv_lib_("sigma_zero", num_steps=300)},
        ),
        (
            "fab",
            "linf",
            {"steps": 50},
            {
                "adv-lib": adv_lib_("fab", norm=math.inf, n_iter=50),
                "torchattacks": torchattacks_("FAB", eps=None, steps=50),
            },
        ),
        (
            "sparsefool",
            "l0",
            {},
            {"torchattacks": torchattacks_("SparseFool", steps=10)},
        ),
        (
            "jsma",
            "l0",
            {"gamma": 0.1, "norm": "l1"},
            # Towards the next class, since it has no rule for any class.
            {"torchattacks": torchattacks_("JSMA", theta=1.0, gamma=0.1)},
        ),
        *_searches(),
    ]
    return [Case(*row[:2], None, *row[2:]) for row in found]


def _searches() -> list[Row]:
    """Those that search for a constant."""
    steps, lr = SEARCH["steps"], SEARCH["lr"]
    search = {"binary_search_steps": SEARCH["binary_steps"], "initial_const": 1.0}
    cw, ead = {"learning_rate": lr} | search, {"lr": lr, "max_iterations": steps}
    return [
        (
            "cw_l2",
            "l2",
            SEARCH,
            {
                "adv-lib": adv_lib_("carlini_wagner_l2", max_iterations=steps, **cw),
                "foolbox": foolbox_(
                    "L2CarliniWagnerAttack", steps=steps, stepsize=lr, **search
                ),
            },
        ),
        (
            "ead",
            "l1",
            # The peers give up where the loss stands still: this many end nearer.
            SEARCH | {"steps": 60},
            {
                "foolbox": foolbox_(
                    "EADAttack",
                    steps=steps,
                    initial_stepsize=lr,
                    decision_rule="L1",
                    **search,
                ),
                "torchattacks": torchattacks_(
                    "EADL1",
                    binary_search_steps=SEARCH["binary_steps"],
                    initial_const=1.0,
                    beta=0.01,
                    **ead,
                ),
            },
        ),
    ]


def _black_boxes() -> list[Case]:
    eps = EPS["linf"]
    jump = foolbox_("HopSkipJumpAttack", steps=8)
    walk = foolbox_("BoundaryAttack", steps=3000)
    square = torchattacks_("Square", eps=eps, n_queries=1000, resc_schedule=False)
    pixels = torchattacks_("OnePixel", pixels=5, steps=20, popsize=60)
    small = {"population": 60, "steps": 20, "pixels": 5}
    return [
        Case("square", "linf", eps, {"queries": 1000}, {"torchattacks": square}),
        Case("one_pixel", "l0_pixels", 5, small, {"torchattacks": pixels}),
        Case(
            "pixle",
            "l0_pixels",
            math.inf,
            {"queries": 200},
            {"torchattacks": torchattacks_("Pixle", restarts=20, max_iterations=10)},
        ),
        Case("hop_skip_jump", "l2", None, {"queries": 1845}, {"foolbox": jump}),
        Case("boundary", "l2", None, {"queries": 3500}, {"foolbox": walk}),
    ]
