"""The leaderboard's format: its fields, and what is left out."""

import json

import pytest

from jaxrobust.evaluation import robustbench
from jaxrobust.results import Results, read

FIELDS = [
    "link",
    "name",
    "authors",
    "additional_data",
    "number_forward_passes",
    "dataset",
    "venue",
    "architecture",
    "eps",
    "clean_acc",
    "reported",
    "autoattack_acc",
    "footnote",
    "unreliable",
]


def attack(name, accuracy, eps_text="8/255", **fields):
    eps = None if eps_text == "any" else 8 / 255
    return {
        "name": name,
        "label": name,
        "norm": "linf",
        "eps": eps,
        "eps_text": eps_text,
        "robust_accuracy": accuracy,
        "ci95": [0.0, 1.0],
        "n": 10000,
        **fields,
    }


def results(*attacks, flags=(), examples=10000):
    names = [a["label"] for a in attacks]
    counted = {"ci95": [0.0, 1.0], "n": examples}
    told = {
        "clean": {"accuracy": 0.8492, **counted},
        "attacks": list(attacks),
        "worst_case": {"robust_accuracy": 0.53, "attacks": names, **counted},
        "flags": [{"name": name, "message": "", "severe": True} for name in flags],
        "data": {"name": "cifar10", "examples": examples, "of": 10000},
    }
    return read(Results, told)


def config(**about):
    return {"name": "trades", "model": {"name": "wide"}, "eval": {"robustbench": about}}


def test_all_fields_after_standard_autoattack():
    about = {
        "link": "https://arxiv.org/abs/1901.08573",
        "name": "TRADES",
        "authors": "H. Zhang",
        "venue": "ICML 2019",
        "architecture": "WideResNet-34-10",
        "reported": "56.61",
        "additional_data": "true",
        "number_forward_passes": "1",
    }
    found = results(
        attack("cw_l2", 0.0, "any"),
        attack("pgd", 0.6, "4/255"),
        attack("autoattack", 0.53081, version="standard"),
    )
    entry = robustbench.entry(found, config(**about))
    assert list(entry) == FIELDS
    assert entry == {
        **about,
        "additional_data": True,
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "eps": "8/255",
        "clean_acc": "84.92",
        "autoattack_acc": "53.08",
        "footnote": "",
        "unreliable": False,
    }
    json.dumps(entry)


@pytest.mark.parametrize(
    "attacks",
    [
        [],
        [attack("cw_l2", 0.0, "any"), attack("pgd", 0.53)],
        [attack("autoattack", 0.53, version="rand")],
    ],
)
def test_no_autoattack_no_number_of_it(attacks):
    entry = robustbench.entry(results(*attacks), config())
    assert list(entry) == [name for name in FIELDS if name != "autoattack_acc"]
    assert "Standard AutoAttack did not run" in entry["footnote"]
    ran = ", ".join(a["label"] for a in attacks)
    said = f"53.00 % are robust under {ran}." if ran else "no attack in a ball ran"
    assert said in entry["footnote"]
    assert entry["eps"] == ("8/255" if attacks else "")
    assert (entry["name"], entry["architecture"]) == ("trades", "wide")


def test_flags_and_few_images_are_told():
    found = results(
        attack("autoattack", 0.5, version="standard"),
        flags=["zero_gradients", "curve_rises", "zero_gradients"],
        examples=500,
    )
    entry = robustbench.entry(found, config(footnote="Mine."))
    assert entry["unreliable"] is True
    assert entry["footnote"] == (
        "Mine. On 500 of 10000 test images. Warning signs: curve_rises, zero_gradients."
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"venu": "x"}, "no field 'venu' .* Did you mean 'venue'"),
        ({"additional_data": "some"}, "`additional_data` must be true or false, .*som"),
        ({"number_forward_passes": "0"}, "`number_forward_passes` must be a whole"),
    ],
)
def test_mistakes_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        robustbench.read_about(fields)
