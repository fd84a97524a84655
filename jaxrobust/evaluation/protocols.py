"""The papers' own evaluation protocols: their attacks and radii, as tables.

A protocol repeats a paper; it does not tell how robust a network is. `eps` is None
where an attack looks for the smallest perturbation; `norm` says in which norm then.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from jaxrobust.evaluation.radius import exact

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


def gradient(eps: str, step_size: str, norm: str) -> Table:
    """FGSM, PGD-20 from a random start and uniform noise."""
    common = {"norm": norm, "eps": eps}
    pgd = {"name": "pgd", "step_size": step_size, "steps": 20, "random_start": True}
    return {
        "fgsm": {"name": "fgsm", **common},
        "pgd20": {**pgd, **common},
        "ball": {"name": "uniform_noise", "draws": 10, **common},
    }


def ssp2020(eps: str, step_size: str, norm: str) -> Table:
    """Kim et al. 2020, arXiv 2010.10047: the same without the random start."""
    table = gradient(eps, step_size, norm)
    table["pgd20"]["random_start"] = False
    return table


def pcl2019(data: str) -> Table:
    """Mustafa et al. 2019, arXiv 1904.00887, section 4: ten steps, no random start.

    BIM and MIM step by a tenth of the radius, so their release needs no projection.
    The step of PGD on MNIST is ours: the release has CIFAR-10 alone.
    """
    eps = _of({"mnist": "0.3", "fashion_mnist": "0.3", DEFAULT: "8/255"}, data)
    steps = {"norm": "linf", "eps": eps, "steps": 10}
    tenth = {**steps, "step_size": _tenth(eps)}
    own = "2/255" if eps == "8/255" else _tenth(eps, 4)
    return {
        "fgsm": {"name": "fgsm", "norm": "linf", "eps": eps},
        "bim10": {"name": "bim", **tenth},
        "mim10": {"name": "mim", "decay": 1.0, **tenth},
        "pgd10": {"name": "pgd", **steps, "step_size": own, "random_start": False},
    }


def fpd2020(data: str) -> Table:
    """Li et al. 2020, arXiv 2005.02552, section 4, white-box and black-box.

    Radii and the 40 steps are the paper's; steps in L1 and L2 are a quarter of the
    radius (the release leaves them to its attack library, ART, as it does the numbers
    of C&W and ZOO: 10 iterations there, here those of the attacks' authors).
    Black-box examples are made on an undefended network and handed over (`transfer`).
    """
    mnist = LIKE.get(data, data) == "mnist"
    eps = {norm: "1.5" if mnist else "8/255" for norm in ("l1", "l2")}
    eps["linf"] = "0.3" if mnist else "8/255"
    step = {norm: _tenth(eps[norm], 4) for norm in ("l1", "l2")}
    step["linf"] = "0.01" if mnist else "2/255"
    table: Table = {}
    for norm, end in (("linf", ""), ("l2", "_l2"), ("l1", "_l1")):
        common = {"norm": norm, "eps": eps[norm]}
        iterated = {**common, "step_size": step[norm], "steps": 40}
        table[f"fgsm{end}"] = {"name": "fgsm", **common}
        table[f"pgd40{end}"] = {"name": "pgd", **iterated, "random_start": False}
        for source, own in (("fgsm", common), ("pgd", iterated)):
            handed = {"name": "transfer", "attack": source, **own}
            table[f"transfer_{source}{end}"] = handed
    linf = {"norm": "linf", "eps": eps["linf"]}
    queried = {"eps": None, "queries": 100}
    table["bim40"] = {"name": "bim", **linf, "step_size": step["linf"], "steps": 40}
    return table | {
        "cw_l2": {"name": "cw_l2", "norm": "l2", "eps": None},
        "cw_linf": {"name": "cw_linf", **linf},
        "boundary": {"name": "hop_skip_jump", **queried, "norm": "linf"},
        "boundary_l2": {"name": "hop_skip_jump", **queried, "norm": "l2"},
        "deepfool": {"name": "deepfool", "norm": "l2", "eps": None},
        "jsma": {"name": "jsma", "norm": "l1", "eps": None, "theta": 0.1, "gamma": 1.0},
        "zoo": {"name": "zoo", "norm": "l2", "eps": None},
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
    """Li et al. 2021, arXiv 2012.07688, section 4: ten steps of a tenth, several radii.

    PGD starts at random.
    """
    table: Table = {}
    for eps in (radii := _of(PCLC_RADII, data)):
        common = {"norm": "linf", "eps": eps}
        iterated = {**common, "step_size": _tenth(eps), "steps": 10}
        table[f"fgsm_{eps}"] = {"name": "fgsm", **common}
        table[f"pgd10_{eps}"] = {"name": "pgd", **iterated, "random_start": True}
        table[f"mim10_{eps}"] = {"name": "mim", **iterated}
    last = {"norm": "linf", "eps": radii[-1]}
    iterated = {**last, "step_size": _tenth(radii[-1]), "steps": 10}
    return table | {
        "cw_l2": {"name": "cw_l2", "norm": "l2", "eps": None},
        "spsa": {"name": "spsa", **last, "steps": 10},
        "transfer_mim": {"name": "transfer", "attack": "mim", **iterated},
    }


def ssc2024(data: str) -> Table:
    """SSC-DM: the release tests with the attacks it trains with, on every data set."""
    del data
    iterated = {"norm": "linf", "step_size": "0.0078", "steps": 20}
    return {
        "fgsm": {"name": "fgsm", "norm": "linf", "eps": "0.03"},
        "pgd20": {"name": "pgd", **iterated, "eps": "0.3", "random_start": True},
        "mim20": {"name": "mim", **iterated, "eps": "0.1", "decay": 0.9},
    }


# Those of one threat take it as arguments; the others know theirs by the data set.
OF_THREAT: Mapping[str, Callable[[str, str, str], Table]] = {
    one.__name__: one for one in (gradient, ssp2020)
}
OF_DATA: Mapping[str, Callable[[str], Table]] = {
    one.__name__: one for one in (pcl2019, fpd2020, pclc2021, ssc2024)
}
