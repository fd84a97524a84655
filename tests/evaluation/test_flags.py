"""Each sign of masked gradients: raised when it is there, silent when not."""

import copy

import numpy as np
import pytest

from jaxrobust.evaluation import flags, flags_of_attacks
from jaxrobust.evaluation.analyses import curve
from jaxrobust.results import analysis_schema, schema, typed


def attack(label, name, share, eps=0.1):
    return schema.AttackSummary(
        label=label,
        name=name,
        norm="linf",
        eps=eps,
        robust_accuracy=share,
        ci95=(0.0, 1.0),
        n=200,
    )


def names(found):
    return [flag["name"] for flag in found]


NUMBERS = {
    "n": 100,
    "steps": 10,
    "restarts": 1,
    "queries": 50,
    "covering_eps": 1.0,
    "zero_gradient_share_attacked": 0.05,
    "raised": 0.015,
    "predictions": {"accuracy": 0.9, "chance": 0.12, "constant": False},
    "only_single_step_share": 0.02,
    "only_rescaled_share": 0.05,
    "only_black_box_share": 0.02,
    "logits": {
        "probabilities": False,
        "certain_share": 0.5,
        "no_loss_share": 0.5,
        "at_ceiling_share": 0.5,
        "largest": 9.0,
        "rescaled_by": 0.1,
    },
    "calls": {
        "same_batch": 1e-4,
        "other_batch": 1e-3,
        "other_size": 1e-3,
        "traced_again": None,
    },
    "gradients": {
        "zero_gradient_share": 1.0,
        "zero_slope_share": 0.05,
        "non_finite_gradient_share": 0.0,
        "median_length": 1.0,
        "explained": 0.7,
        "explained_near": 0.85,
        "misled_share": 0.1,
        "changed_share": 0.05,
        "loss_rises_share": 0.9,
        "loss_rises_n": 100,
    },
    "accuracy": {
        "iterative": 0.5,
        "more_steps": 0.4,
        "more_restarts": 0.4,
        "covering": 0.1,
    },
}


def raised(numbers):
    return flags.from_diagnostics(typed.make(analysis_schema.Diagnostics, numbers))


SIGNS = {
    "only_single_step_share": (0.03, "single_step_beats_iterative", True),
    "only_black_box_share": (0.03, "black_box_beats_white_box", True),
    "only_rescaled_share": (0.06, "scale_hides_gradients", True),
    "logits.probabilities": (True, "probabilities_as_logits", True),
    "logits.certain_share": (0.51, "saturated_logits", False),
    "logits.no_loss_share": (0.51, "saturated_logits", False),
    "logits.at_ceiling_share": (0.51, "bounded_logits", True),
    "calls.same_batch": (2e-4, "outputs_change", True),
    "calls.traced_again": (2e-4, "outputs_change", True),
    "calls.other_batch": (2e-3, "batch_dependent_outputs", True),
    "calls.other_size": (float("inf"), "batch_dependent_outputs", True),
    "gradients.zero_slope_share": (0.06, "zero_gradients", True),
    "zero_gradient_share_attacked": (0.06, "zero_gradients", True),
    "raised": (0.02, "attack_raises_accuracy", True),
    "gradients.explained": (0.69, "wrong_gradients", True),
    "gradients.explained_near": (0.84, "wrong_gradients", True),
    "gradients.misled_share": (0.11, "wrong_gradients", True),
    "gradients.changed_share": (0.06, "predictions_jump", True),
    "predictions.accuracy": (0.15, "learned_nothing", False),
    "gradients.non_finite_gradient_share": (0.01, "non_finite_gradients", True),
    "gradients.loss_rises_share": (0.89, "gradients_mislead", True),
    "accuracy.more_steps": (0.39, "more_steps_gain", False),
    "accuracy.more_restarts": (0.39, "more_restarts_gain", False),
    "accuracy.covering": (0.22, "above_chance_at_largest_eps", True),
}


def test_numbers_at_the_thresholds_are_no_sign():
    assert raised(NUMBERS) == []


@pytest.mark.parametrize("field", SIGNS)
def test_each_number_beyond_its_threshold_is_one_sign(field):
    value, name, severe = SIGNS[field]
    numbers = copy.deepcopy(NUMBERS)
    *parts, last = field.split(".")
    (numbers[parts[0]] if parts else numbers)[last] = value
    [flag] = raised(numbers)
    assert (flag["name"], flag["severe"]) == (name, severe)
    assert flag["message"].endswith(".")


def test_what_could_not_be_measured_is_no_sign():
    unknown = dict.fromkeys(("explained", "explained_near", "loss_rises_share"))
    gradients = NUMBERS["gradients"] | unknown
    assert raised(NUMBERS | {"gradients": gradients}) == []


def test_a_constant_network_is_told_as_such_and_nothing_else():
    numbers = copy.deepcopy(NUMBERS)
    numbers["predictions"] = {"accuracy": 0.1, "chance": 0.12, "constant": True}
    numbers["gradients"]["zero_slope_share"] = 1.0
    numbers["logits"]["at_ceiling_share"] = 1.0
    numbers["accuracy"]["covering"] = 0.1
    [flag] = raised(numbers)
    assert (flag["name"], flag["severe"]) == ("learned_nothing", False)
    assert "12.0%" in flag["message"]
    assert "all 100 images the same class" in flag["message"]


@pytest.mark.parametrize(
    ("accuracy", "chance", "n", "flagged"),
    [
        (1.0, 23 / 24, 24, False),
        (23 / 24, 23 / 24, 24, True),
        (0.9, 23 / 24, 24, True),
        (0.5, 0.25, 8, False),
        (0.12, 0.1, 100, True),
        (0.3, 0.1, 10, False),
        (0.14, 0.1, 10_000, False),
        (0.0, 0.5, 4, True),
    ],
)
def test_who_has_learned_nothing(accuracy, chance, n, flagged):
    found = flags.learned_nothing(accuracy, chance, n)
    assert bool(found) == flagged
    assert all("cannot be told from chance" in flag["message"] for flag in found)


def test_a_network_that_learned_nothing_is_not_called_saturated():
    numbers = copy.deepcopy(NUMBERS)
    numbers["predictions"]["accuracy"] = 0.12
    numbers["logits"] |= {"at_ceiling_share": 1.0, "no_loss_share": 1.0}
    assert names(raised(numbers)) == ["learned_nothing"]


def test_chance_is_the_commonest_class():
    logits = np.eye(3)[[0, 0, 0, 0]]
    found = flags.predictions(logits, np.array([0, 0, 0, 1]))
    assert found == analysis_schema.Predictions(
        accuracy=0.75, chance=0.75, constant=True
    )
    # Of one class alone nothing can be said.
    found = flags.predictions(logits, np.zeros(4, int))
    assert found == analysis_schema.Predictions(
        accuracy=1.0, chance=1 / 3, constant=False
    )


def test_signs_of_the_cross_entropy_are_minor_beside_an_attack_without_it():
    found = [
        flags.RaisedFlag(name=name, severe=True, message=".", values={})
        for name in ("scale_hides_gradients", "other")
    ]
    pgd = attack("pgd20", "pgd", 0.5)
    for more, severe in (
        ({}, True),
        ({"attack_loss": "ce", "loss": 0.7}, True),
        ({"attack_loss": "margin", "loss": 0.7}, False),
        ({"name": "autoattack"}, False),
        ({"name": "autoattack", "eps": None}, True),
        ({"name": "square"}, True),
    ):
        names = flags_of_attacks.OF_CROSS_ENTROPY
        got = flags_of_attacks.of_what_ran(
            found, names, [pgd, typed.updated(pgd, more)]
        )
        assert [flag["severe"] for flag in got] == [severe, True], more


def test_an_attack_that_raises_accuracy_is_a_sign():
    clean = schema.Clean(accuracy=0.5, ci95=(0.4, 0.6), n=200)
    for share, count in ((0.5, 0), (0.505, 0), (0.52, 1)):
        ran = [attack("pgd20", "pgd", share), attack("ball", "uniform_noise", 0.9)]
        assert len(flags_of_attacks.raised(ran, clean)) == count


def test_small_logits_hide_nothing():
    logits = NUMBERS["logits"] | {"rescaled_by": 10.0}
    numbers = NUMBERS | {"only_rescaled_share": 0.2, "logits": logits}
    assert raised(numbers) == []


def test_of_few_images_one_is_no_sign():
    numbers = NUMBERS | {"n": 20, "only_black_box_share": 1 / 20}
    assert raised(numbers) == []
    numbers["only_black_box_share"] = 2 / 20
    assert len(raised(numbers)) == 1


def test_a_sign_is_told_once():
    first, again, other = (
        flags.RaisedFlag(name=name, severe=False, message=".", values={"of": i})
        for i, name in enumerate("aab")
    )
    assert flags.joined([first], [again, other]) == [first, other]
    assert flags.joined([], []) == []


@pytest.mark.parametrize(
    ("weak", "flag"),
    [
        ("fgsm", "single_step_beats_iterative"),
        ("uniform_noise", "black_box_beats_white_box"),
    ],
)
def test_weak_attack_beats_iterative(weak, flag):
    pgd = attack("pgd20", "pgd", 0.5)
    assert not [*flags_of_attacks.from_attacks([attack("w", weak, 0.6), pgd])]
    assert not [*flags_of_attacks.from_attacks([attack("w", weak, 0.3, eps=0.2), pgd])]
    assert not [*flags_of_attacks.from_attacks([attack("w", weak, 0.3)])]
    found = [*flags_of_attacks.from_attacks([attack("w", weak, 0.3), pgd])]
    assert names(found) == [flag]
    assert "30.0%" in found[0]["message"]
    assert found[0]["values"] == {"weak": 0.3, "iterative": 0.5}


def described(shares, eps, n=200):
    correct = np.arange(n)[:, None] < np.asarray(shares) * n
    return curve.describe(correct, eps, [str(e) for e in eps], "linf", 5)


def test_curve():
    quiet = described([0.9, 0.5, 0.0], [0, 0.1, 1])
    assert not [*flags_of_attacks.from_curve(quiet, 0.1, 100)]
    short = described([0.9, 0.5], [0, 0.1])
    assert not [*flags_of_attacks.from_curve(short, 0.1, 100)]
    blind = described([0.9, 0.5, 0.4], [0, 0.1, 0.5])
    found = [*flags_of_attacks.from_curve(blind, 0.1, 100)]
    assert names(found) == ["above_chance_at_largest_eps"]
    assert "40.0% resist" in found[0]["message"]
    rising = described([0.9, 0.3, 0.5], [0, 0.1, 0.2])
    assert names(flags_of_attacks.from_curve(rising, 0.1, 100)) == ["curve_rises"]
