"""Every field of a config is looked at before any work."""

import math
import re
import types

import numpy as np
import pytest

from jaxrobust.training import check, fields
from jaxrobust.training import config as common

NAN, INF = math.nan, math.inf
# Kinds of fields: a value of the wrong type, beside those out of range.
NO_NUMBER = ("x", "1", None, True, [1], {"a": 1}, 1j, np.float64(NAN))
NO_COUNT = (*NO_NUMBER, -1, 0.5, 1.0, NAN, INF, 2**31)
RADII = ("8/0", "nan", "-1/255", "1e400", "inf", "", "x", None, True, -0.1, NAN, INF)
RADII += ("1e999999999", "1/2/3", "1/1e-999999999", [0.1])
WRONG = {
    "seed": (*NO_NUMBER, -1, 0.5, NAN, 2**32, 10**30),
    "twin": ("pdg", None, 1),
    "deterministic": ("yes", 1, None),
    "quick_compile": ("yes", 1, None),
    "precision": ("hi", None, "fast"),
    "data.name": ("", " ", None, 3, "npz:a\0b"),
    "data.image_size": (*NO_COUNT, 10**6),
    "data.channels": (*NO_NUMBER, 1, 4, -3),
    "data.train_examples": NO_COUNT,
    "data.test_examples": NO_COUNT,
    "data.validation_examples": (*NO_COUNT, 0),
    "data.feed": ("disk", None),
    "data.augment.flip": ("no", 1, None),
    "data.extra.file": (None, 1),
    "data.extra.share": (*NO_NUMBER, -0.1, 1.0, NAN),
    "data.augment.rotation": (*NO_NUMBER, -1.0, 181.0, INF),
    "data.augment.random_resized_crop": (-0.1, 1.1, NAN),
    "data.augment.crop_padding": (*NO_COUNT, 10**5),
    "data.augment.cutout": (*NO_COUNT, 10**5),
    "data.augment.rand_augment": (*NO_COUNT, 15),
    "data.augment.rand_magnitude": (-1.0, 31.0, "9"),
    "data.mix.mixup": (*NO_NUMBER, -0.1, NAN, INF),
    "data.mix.cutmix": (*NO_NUMBER, -0.1, NAN, INF),
    "model.name": ("", None, 5),
    "model.num_classes": (*NO_COUNT, 0, 1),
    "model.width": (*NO_COUNT, 0),
    "model.mean": ("x", True, (NAN,), ("a",)),
    "model.std": ("x", 0.0, (0.2, 0.0), -1.0, (INF,)),
    "objective.name": ("pdg", None, ""),
    "objective.attack_bn": ("test", 1),
    "objective.label_smoothing": ("x", True, -0.1, 1.0, NAN, INF),
    "objective.beta": ("x", True, -1.0, NAN, INF),
    "objective.draws": (0, -1, 0.5, True, "2"),
    "objective.start": ("bal", 1, True),
    "objective.noise": (-0.1, NAN, INF, "x"),
    "objective.grad_align": (-0.1, NAN, INF, "x"),
    "objective.mix": ("mean", 1, True),
    "objective.norms": ("linf", ("l3",), (1,)),
    "objective.radii": (*[(r,) for r in RADII], "8/255"),
    "objective.slack": (-0.1, NAN, 2.1, "x"),
    "objective.replays": (0, -1, 0.5, True, "2"),
    "objective.awp_gamma": (-0.1, NAN, INF, "x"),
    "objective.attack_warmup_epochs": (-1.0, NAN, INF, "x"),
    "objective.awp_warmup_epochs": (-1.0, NAN, INF, "x"),
    "attack.eps": RADII,
    "attack.step_size": RADII,
    "attack.steps": (*NO_COUNT, 0),
    "attack.norm": ("l3", None, 2),
    "optimizer.name": ("sdg", None),
    "optimizer.learning_rate": (*NO_NUMBER, 0.0, -0.1, NAN, INF, 1e-50),
    "optimizer.momentum": (*NO_NUMBER, -0.1, 1.0, 1, NAN, INF),
    "optimizer.nesterov": ("no", 0),
    "optimizer.b1": (*NO_NUMBER, 1.0, -0.1),
    "optimizer.weight_decay": (*NO_NUMBER, -1e-4, NAN, INF),
    "optimizer.clip_norm": (*NO_NUMBER, -1.0, NAN, INF),
    "label_optimizers": ({"a": {"learning_rate": 0.0}}, {"a": {"rate": 1.0}}, {"a": 5}),
    "schedule.name": ("cosin", None),
    "schedule.milestones": ((-1.0,), (NAN,), (INF,), (2.0, 1.0), "1,2", 3.0, ("1",)),
    "schedule.factor": (*NO_NUMBER, 0.0, -1.0, 1.5, NAN),
    "schedule.scales": ((-1.0,), (NAN,), 1.0),
    "schedule.warmup_epochs": (*NO_NUMBER, -1.0, NAN, INF),
    "schedule.peak": (*NO_NUMBER, 0.0, -0.1, 1.1, NAN),
    "schedule.patience": NO_COUNT,
    "train.epochs": (*NO_NUMBER, 0.0, 0, -1.0, NAN, INF, 1e300),
    "train.batch_size": (*NO_COUNT, 0),
    "train.ema": (*NO_NUMBER, -0.1, 1.0, NAN),
    "train.swa_epochs": (-1.0, 0.5, 2.5, NAN, INF, "x", True),
    "train.compute_dtype": ("float16", None),
    "train.accumulate": (*NO_COUNT, 0),
    "train.remat": ("yes", 1),
    "train.log_every_steps": (*NO_COUNT, 0),
    "train.save_every_steps": (*NO_COUNT, 0),
    "train.validate_every_epochs": (*NO_NUMBER, 0.0, -1.0, NAN, INF),
    "train.early_stop": NO_COUNT,
    "train.skip_nonfinite": NO_COUNT,
    "train.init_from": (None, 1),
    "validation.batch_size": (*NO_COUNT, 0),
    "validation.attack.eps": RADII,
    "validation.attack.steps": (*NO_COUNT, 0),
    "eval.batch_size": (*NO_COUNT, 0),
    "eval.examples": NO_COUNT,
    "eval.precision": ("hi", None),
    "eval.suite": ("autoatack", None, 1),
    "eval.slots": NO_COUNT,
    "eval.ci": (*NO_NUMBER, -0.1, 1.0, NAN),
    "eval.transfer_from": (None, 1),
    "eval.within.linf": (*[(r,) for r in RADII], "8/255", None),
    "eval.curve.eps": (*[[r] for r in RADII], "8/255", None),
    "eval.curve.steps": (*NO_COUNT, 0),
    "eval.curve.examples": NO_COUNT,
    "eval.diagnostics.enabled": ("no", 1),
    "eval.diagnostics.steps": (*NO_COUNT, 0),
    "eval.diagnostics.queries": NO_COUNT,
    "eval.growth.eps": RADII,
    "eval.growth.steps": (*NO_COUNT, 0),
    "eval.analysis.enabled": ("no", 1),
    "eval.analysis.eps": (*[[r] for r in RADII], "8/255"),
    "eval.analysis.steps": (*NO_COUNT, 0),
    "eval.corruptions.names": (["fogg"], "fog", [1]),
    "eval.corruptions.severities": ([], [0], [6], [1.5], 3, ["1"]),
    "eval.corruptions.examples": NO_COUNT,
    "eval.corruption_set.path": (None, 1),
    "eval.corruption_set.names": ("fog", [1], [""]),
    "eval.corruption_set.examples": NO_COUNT,
    "eval.corruption_set.reference": (None, 1, "alex", "errors.txt"),
    "eval.certify.method": ("crwn", None, "bab"),
    "eval.certify.norm": ("l3", None),
    "eval.certify.examples": NO_COUNT,
    "eval.certify.batch_size": (*NO_COUNT, 0),
    "eval.certify.sigma": (*NO_NUMBER, -0.1, 1e7, NAN),
    "eval.certify.n": (*NO_COUNT, 0),
    "eval.certify.alpha": (*NO_NUMBER, 0.0, 0.6, NAN),
    "eval.grid": NO_COUNT,
    "eval.save_adversarial": ("yes", 1),
    "log.writers": (("tensorbord",), "csv", None, (1,)),
    "log.project": ("", " ", None),
}


def changed(**values):
    """The base config with some fields changed, named with dots."""
    config = common.base().to_dict()
    for name, value in values.items():
        *path, last = name.split(".")
        table = config
        for part in path:
            table = table[part]
        table[last] = value
    return config


@pytest.mark.parametrize("name", WRONG)
def test_a_value_out_of_range_is_told_with_its_field(name):
    for value in WRONG[name]:
        [said] = fields.problems(changed(**{name: value})) or [""]
        first = said.partition(" must be ")[0]
        assert name in first, (name, value, said)
        assert "\n" not in said
        assert len(said) < 800


def test_the_base_is_sound_and_all_mistakes_are_told_at_once():
    config = common.base().to_dict()
    assert fields.problems(config) == []
    config["train"]["epochs"] = NAN
    config["eval"]["curve"]["steps"] = 0
    with pytest.raises(ValueError, match="epochs") as told:
        check.check(config)
    assert set(str(told.value).splitlines()) == {
        "`train.epochs` must be a finite number above 0 and at most 1e+06, got nan; "
        "set --config.train.epochs.",
        "`eval.curve.steps` must be a whole number from 1 to 2147483647, got 0; set "
        "--config.eval.curve.steps.",
    }


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("epochs", "train.epochs"),
        ("train.epoch", "train.epochs"),
        ("objective.betta", "objective.beta"),
        ("attack.stepsize", "attack.step_size"),
        ("validation.attack.epsilon", "validation.attack.eps"),
        ("eval.curve.epss", "eval.curve.eps"),
    ],
)
def test_an_unknown_field_is_told_with_the_nearest(name, near):
    [said] = fields.problems(changed(**{name: 1}))
    assert f"no field '{name}'" in said
    assert near in said


@pytest.mark.parametrize(
    "name", ["train.epochs", "schedule.factor", "validation.attack.name", "model.name"]
)
def test_a_missing_field_is_told(name):
    config = common.base().to_dict()
    *path, last = name.split(".")
    table = config
    for part in path:
        table = table[part]
    del table[last]
    [said] = fields.problems(config)
    assert f"no field `{name}`" in said


PGD = {"name": "pgd", "eps": "8/255", "step_size": "2/255", "steps": 2}
ATTACKS = {
    "an unknown attack": ({**PGD, "name": "pdg"}, "'pgd'"),
    "an unknown option": ({**PGD, "step": 1}, "`step`"),
    "a flag as a text": ({**PGD, "random_start": "no"}, "`random_start`"),
    "a count as a text": ({**PGD, "steps": "5"}, "`steps`"),
    "steps without an end": ({**PGD, "steps": 10**12}, "`steps`"),
    "a list as its name": ({**PGD, "name": ["pgd"]}, "`name`"),
    "a number as its network": ({**PGD, "network": 5}, "`network`"),
    "draws of a network without": ({**PGD, "eot_samples": 4}, "`eot_samples`"),
    "a network with keys": ({**PGD, "stochastic": True}, "`stochastic`"),
    "a share out of range": ({"name": "square", "eps": 1, "p_init": 5.0}, "`p_init`"),
    "one that is found when called": ({"name": "apgd", "eps": 1, "rho": 3.0}, "`rho`"),
    "no steps": ({**PGD, "steps": 0}, "`steps`"),
    "a radius over nothing": ({**PGD, "eps": "8/0"}, "`eps`"),
    "no radius where one is needed": ({**PGD, "eps": None}, "`eps`"),
    "an unknown norm": ({**PGD, "norm": "l3"}, "l3"),
    "an unknown loss": ({**PGD, "loss": "cee"}, "cee"),
    "true labels as targets": ({**PGD, "targeted": True}, "`targeted`"),
    "bounds that images leave": ({**PGD, "bounds": (0, 0.5)}, "`bounds`"),
    "bounds that are none": ({**PGD, "bounds": "01"}, "`bounds`"),
    "a number as a text": (
        {**PGD, "name": "mim", "decay": "1"},
        "decay",
    ),
    "a function": ({**PGD, "loss": types.SimpleNamespace()}, "plain data"),
    "no table": ("pgd", "a table such as"),
    "a transfer from nowhere": (
        {**PGD, "name": "transfer", "attack": "pgd", "source": "nowhere"},
        "nowhere",
    ),
    "autoattack in slots of one": (
        {"name": "autoattack", "eps": "0.1", "slots": 1},
        "`slots`",
    ),
}


@pytest.mark.parametrize("case", ATTACKS)
def test_an_attack_of_the_evaluation_is_looked_at(case):
    attack, named = ATTACKS[case]
    config = changed(**{"eval.attacks": {"mine": attack}})
    with pytest.raises((ValueError, TypeError), match=r"mine|eval\.attacks") as told:
        check.check(config)
    assert named in str(told.value)


@pytest.mark.parametrize(
    "values",
    [
        # Under a label of the defaults, whose radii are text.
        {"eval.attacks": {"pgd20": {**PGD, "eps": 8 / 255, "step_size": 2 / 255}}},
        {"eval.robustbench.additional_data": "true", "eval.robustbench.venue": 2024},
    ],
)
def test_tables_of_the_users_own_take_numbers_and_text(values):
    check.check(changed(**values))


def test_no_attack_takes_the_place_of_the_clean_images():
    for label in ("clean", "", "two\nlines"):
        with pytest.raises(ValueError, match=re.escape(repr(label))):
            check.check(changed(**{"eval.attacks": {label: PGD}}))


def test_the_radius_of_a_suite_is_looked_at():
    attack = {**PGD, "eps": "8/0"}
    wrong = changed(**{"eval.attacks": {"mine": attack}, "eval.suite": "adaptive"})
    with pytest.raises(ValueError, match="`eps` must be a number of at least 0"):
        check.check(wrong)


CERTIFY = common.base().eval.certify.to_dict()
NOTHING = CERTIFY | {"enabled": True, "method": "", "sigma": 0.0}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("model.name", "ssp_cifr", "--config.model: .*ssp_cifar"),
        ("model.widht", 4, "--config.model: .*widht"),
        ("validation.attack.name", "pdg", "--config.validation.attack: .*'pgd'"),
        ("validation.attack.random_start", "no", "validation.attack: `random_start`"),
        ("validation.attack.targeted", True, "validation.attack: `targeted`"),
        ("attack.quantize", "no", "objective .*`quantize`"),
        ("eval.transfer_from", "nowhere", "eval.transfer_from.*'nowhere'"),
        ("eval.slots", 1, "--config.eval.slots: `slots`"),
        ("eval.analysis.eps", ["0.2", "0.1"], "`eval.analysis.eps` must grow"),
        ("eval.robustbench.venu", "x", "--config.eval.robustbench: .*'venu'"),
        ("train.accumulate", 3, "`train.accumulate` must be a divisor"),
        ("eval.certify", NOTHING, "`eval.certify.method` is empty and .*sigma` 0"),
    ],
)
def test_what_fields_mean_together_is_looked_at(name, value, said):
    with pytest.raises((ValueError, TypeError), match=said):
        check.check(changed(**{name: value}))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"certify.enabled": True}, r"`eval\.certify\.enabled` is for networks"),
        ({"corruptions.enabled": True}, r"`eval\.corruptions\.enabled` is for"),
        ({"attacks": {"own": PGD | {"loss": "prototypes"}}}, "'own' is on parts"),
        ({"suite": "transfer"}, "transfer attacks are for networks without randomness"),
    ],
)
def test_what_cannot_stand_behind_preprocessing_is_told(values, said):
    fields = {f"eval.{name}": value for name, value in values.items()}
    wrong = changed(**fields, **{"eval.preprocessing": "resize_and_pad"})
    with pytest.raises(ValueError, match=rf"eval\.preprocessing: .*{said}"):
        check.check(wrong)


def test_what_is_seldom_meant_is_said():
    assert check.notices(common.base().to_dict()) == []
    unattacked = common.base()
    unattacked.eval.attacks = {}
    for mode, lines in (("train_eval", 1), ("eval", 1), ("train", 0)):
        found = check.notices(unattacked.to_dict(), mode)
        assert len(found) == lines
        assert all("eval.attacks is empty" in line for line in found)
    short = changed(**{"train.epochs": 2.0, "schedule.warmup_epochs": 2.0})
    drops, warm = check.notices(short)
    assert "schedule.milestones (80.0, 140.0, 180.0) all lie beyond" in drops
    assert "schedule.warmup_epochs 2 is all of train.epochs 2" in warm
    longer = {"schedule.name": "cosine", "train.epochs": 2.0}
    assert check.notices(changed(**longer, **{"train.swa_epochs": 2.0})) == []
    [found] = check.notices(changed(**longer, **{"train.swa_epochs": 3.0}))
    assert "train.swa_epochs 3 is more than train.epochs 2" in found


OF_FREE = {"objective.name": "free", "objective.replays": 4}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"objective.label_smoothing": 0.1}, None),
        (OF_FREE | {"objective.label_smoothing": 0.1}, None),
        (OF_FREE | {"objective.attack_bn": "eval"}, "objective.attack_bn: no effect"),
        (
            {"objective.name": "ibp", "objective.label_smoothing": 0.1},
            "objective.label_smoothing: no effect, objective ibp takes",
        ),
        (
            {"objective.name": "ibp", "objective.label_smoothing": 0.1, "twin": "pgd"},
            None,  # the twin takes it
        ),
        (
            {"objective.name": "gaussian", "objective.attack_warmup_epochs": 1.0},
            "objective.attack_warmup_epochs: no effect",
        ),
        ({"objective.name": "fast", "objective.awp_gamma": 0.01}, None),
        ({"data.extra.file": "a.npz", "data.extra.share": 0.5}, None),
        (
            {"data.extra.file": "a.npz", "data.extra.share": 0.001},
            "data.extra.share 0.001 of train.batch_size 128 is no image",
        ),
        ({"attack.name": "fgsm"}, "attack.name 'fgsm': no effect, the attack of a"),
        (
            {"model": {"name": "benchmarks.small_cnn:build", "loop_save": False}},
            "model.loop_save: no effect, benchmarks.small_cnn:build takes no such",
        ),
        ({"attack.eps": "8"}, "attack.eps 8 is the whole range of images in [0, 1]"),
        ({"attack.eps": "8/255"}, None),
    ],
)
def test_options_without_effect_are_told(values, said):
    found = check.notices(changed(**values))
    assert len(found) == (said is not None)
    assert not said or said in found[0]
