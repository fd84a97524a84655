"""The papers' own evaluation protocols: their attacks and radii, as tables.

A protocol repeats a paper; it does not tell how robust a network is. `eps` is None
where an attack looks for the smallest perturbation; `norm` says in which norm then.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from jaxrobust.attacks import registry
from jaxrobust.evaluation.text import exact

Fields = dict[str, Any]
Table = dict[str, Fields]
T = TypeVar("T")

# Sets that are as another one for the radii; what is unknown is as CIFAR-10.
LIKE = {
    "digits": "mnist",
    "fmnist": "fashion_mnist",
    "svhn": "svhn_cropped",
    "tinyimagenet": "tiny_imagenet",
}
DEFAULT = "cifar10"
STEP_SHARE = 2.5  # steps x step size over the radius, as Madry et al. 2018 use


class Threat(NamedTuple):
    """A radius and the step of iterative attacks, as configs write them."""

    eps: str
    step_size: str


def _of(table: Mapping[str, T], data: str) -> T:
    """Looks a data set up; one without an entry is taken as CIFAR-10."""
    return table.get(LIKE.get(data, data), table[DEFAULT])


def _tenth(eps: str, parts: int = 10) -> str:
    return str(exact(eps) / parts)


# Of Kim et al. 2020: their training attacks.
SSP_THREATS: Mapping[str, Threat] = {
    "mnist": Threat("0.3", "0.05"),
    "fashion_mnist": Threat("0.1", "0.02"),
    "cifar10": Threat("8/255", "2/255"),
    "tiny_imagenet": Threat("4/255", "1/255"),
}


def threat_of(data: str) -> Threat:
    """Returns the usual Linf threat of a data set."""
    return _of(SSP_THREATS, data)


def attack(name: str, eps: str | None, norm: str = "linf", **options: Any) -> Fields:
    """Returns one attack as a config writes it."""
    return {"name": name, "norm": norm, "eps": eps, **options}


def gradient(eps: str, step_size: str, norm: str) -> Table:
    """FGSM, PGD-20 from a random start and uniform noise."""
    steps = {"step_size": step_size, "steps": 20}
    return {
        "fgsm": attack("fgsm", eps, norm),
        "pgd20": attack("pgd", eps, norm, **steps, random_start=True),
        "ball": attack("uniform_noise", eps, norm, draws=10),
    }


def ssp2020(eps: str, step_size: str, norm: str) -> Table:
    """Kim et al. 2020, arXiv 2010.10047: the same without the random start."""
    table = gradient(eps, step_size, norm)
    table["pgd20"]["random_start"] = False
    return table


def transfer(eps: str, step_size: str, norm: str) -> Table:
    """Images made on another network, or several, by attacks that are meant for that.

    Ten steps, as their papers make them. The source is `eval.transfer_from`.
    """
    steps = {"step_size": step_size, "steps": 10}
    table = {
        name: attack("transfer", eps, norm, attack=name, **steps)
        for name, of in registry.table().items()
        if of.transfers
    }
    table["ti_dim"] = {**table["dim"], "kernel": "gaussian"}
    return {f"transfer_{name}": fields for name, fields in table.items()}


def pcl2019(data: str) -> Table:
    """Mustafa et al. 2019, arXiv 1904.00887, section 4: ten steps, no random start.

    BIM and MIM step by a tenth of the radius, so their release needs no projection.
    The step of PGD on MNIST is ours: the release has CIFAR-10 alone.
    """
    eps = _of({"mnist": "0.3", "fashion_mnist": "0.3", DEFAULT: "8/255"}, data)
    tenth = {"step_size": _tenth(eps), "steps": 10}
    own = "2/255" if eps == "8/255" else _tenth(eps, 4)
    return {
        "fgsm": attack("fgsm", eps),
        "bim10": attack("bim", eps, **tenth),
        "mim10": attack("mim", eps, **tenth, decay=1.0),
        "pgd10": attack("pgd", eps, step_size=own, steps=10, random_start=False),
    }


def fpd2020(data: str) -> Table:
    """Li et al. 2020, arXiv 2005.02552, section 4, white-box and black-box.

    Radii and the 40 steps are the paper's; steps in L1 and L2 are a quarter of the
    radius (the release leaves them to its attack library, ART, as it does the numbers
    of C&W and ZOO: 10 iterations there, here those of the attacks' authors).
    Black-box examples are made on an undefended network and handed over (`transfer`).
    """
    linf, other, step = "8/255", "8/255", "2/255"
    if LIKE.get(data, data) == "mnist":
        linf, other, step = "0.3", "1.5", "0.01"
    quarter = _tenth(other, 4)
    table: Table = {}
    for norm, end, eps, step_size in (
        ("linf", "", linf, step),
        ("l2", "_l2", other, quarter),
        ("l1", "_l1", other, quarter),
    ):
        steps = {"step_size": step_size, "steps": 40}
        table[f"fgsm{end}"] = attack("fgsm", eps, norm)
        table[f"pgd40{end}"] = attack("pgd", eps, norm, **steps, random_start=False)
        for made_by, own in (("fgsm", {}), ("pgd", steps)):
            handed = attack("transfer", eps, norm, attack=made_by, **own)
            table[f"transfer_{made_by}{end}"] = handed
    return table | {
        "bim40": attack("bim", linf, step_size=step, steps=40),
        "cw_l2": attack("cw_l2", None, "l2"),
        "cw_linf": attack("cw_linf", linf),
        "boundary": attack("hop_skip_jump", None, "linf", queries=100),
        "boundary_l2": attack("hop_skip_jump", None, "l2", queries=100),
        "deepfool": attack("deepfool", None, "l2"),
        "jsma": attack("jsma", None, "l1", theta=0.1, gamma=1.0),
        "zoo": attack("zoo", None, "l2"),
    }


# "Several eps": TinyImageNet's are the release's, the others ours.
PCLC_RADII: Mapping[str, tuple[str, ...]] = {
    "mnist": ("0.1", "0.2", "0.3"),
    "fashion_mnist": ("0.1", "0.2", "0.3"),
    "cifar10": ("0.01", "0.02", "0.03"),
    "cifar100": ("0.005", "0.01", "0.015"),
    "tiny_imagenet": ("0.005", "0.01", "0.015"),
}


def pclc2021(data: str) -> Table:
    """Li et al. 2021, arXiv 2012.07688, section 4: steps of a tenth, several radii."""
    table: Table = {}
    radii = _of(PCLC_RADII, data)
    for eps in radii:
        tenth = {"step_size": _tenth(eps), "steps": 10}
        table[f"fgsm_{eps}"] = attack("fgsm", eps)
        table[f"pgd10_{eps}"] = attack("pgd", eps, **tenth, random_start=True)
        table[f"mim10_{eps}"] = attack("mim", eps, **tenth)
    last = table[f"mim10_{radii[-1]}"]
    return table | {
        "cw_l2": attack("cw_l2", None, "l2"),
        "spsa": attack("spsa", radii[-1], steps=10),
        "transfer_mim": {**last, "name": "transfer", "attack": "mim"},
    }


def ssc2024(data: str) -> Table:
    """SSC-DM: the release tests with the attacks it trains with, on every data set."""
    del data
    steps = {"step_size": "0.0078", "steps": 20}
    return {
        "fgsm": attack("fgsm", "0.03"),
        "pgd20": attack("pgd", "0.3", **steps, random_start=True),
        "mim20": attack("mim", "0.1", **steps, decay=0.9),
    }


def spatial(data: str) -> Table:
    """Engstrom et al. 2019, arXiv 1712.02779, section 4, and StAdv: no balls of a norm.

    30 degrees and 3 pixels (24 of ImageNet's 224), on their grid, the worst of ten
    random ones, and by gradients. Pixels of the other sets are ours, as is all of
    StAdv.
    """
    usual = {"tiny_imagenet": 6.0, "imagenet": 24.0, DEFAULT: 3.0}
    pixels = 1.0 if data == "digits" else _of(usual, data)
    pose = {"name": "rotate_translate", "rotation": 30.0, "translation": pixels}
    return {
        "grid": {**pose, "search": "grid", "angles": 31, "shifts": 5},
        "random10": {**pose, "search": "random", "draws": 10},
        "first_order": {**pose, "name": "rotate_translate_gradient"},
        "stadv": {"name": "stadv", "flow": 1.0},
    }


# Those of one threat take it as arguments; the others know theirs by the data set.
OF_THREAT: Mapping[str, Callable[[str, str, str], Table]] = {
    one.__name__: one for one in (gradient, ssp2020, transfer)
}
OF_DATA: Mapping[str, Callable[[str], Table]] = {
    one.__name__: one for one in (pcl2019, fpd2020, pclc2021, ssc2024, spatial)
}
