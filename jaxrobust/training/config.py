"""The config that every experiment starts from, and its small parsers."""

import difflib
from collections.abc import Mapping

from ml_collections import ConfigDict


def parse_arg(arg: str | None, defaults: Mapping[str, str | int | bool]) -> ConfigDict:
    """Reads a config's argument string, `key=value,flag,...`.

    Args:
      arg: the text after `configs/x.py:`.
      defaults: every key with its default; values take the default's type, and a bare
        key turns a flag on.

    Raises:
      ValueError: for an unknown key (naming the nearest) or a value of another type.
    """
    result = ConfigDict(dict(defaults))
    for item in filter(None, (arg or "").split(",")):
        key, given, text = item.partition("=")
        if key not in defaults:
            near = difflib.get_close_matches(key, defaults, n=1)
            raise ValueError(
                f"unknown config argument {key!r}; known: {', '.join(defaults)}."
                + (f" Did you mean {near[0]!r}?" if near else "")
            )
        default = defaults[key]
        if isinstance(default, bool):
            if text not in ("", "true", "false"):
                raise ValueError(f"`{key}` is true or false, got {text!r}.")
            result[key] = text != "false"
        elif not given:
            raise ValueError(f"`{key}` needs a value, as in {key}={default}.")
        elif isinstance(default, int):
            if not text.isdigit():
                raise ValueError(f"`{key}` must be a whole number, got {text!r}.")
            result[key] = int(text)
        else:
            result[key] = text
    return result


def base() -> ConfigDict:
    """Returns every field of a run with a default; experiments change some of them."""
    config = ConfigDict()
    config.name = ""  # filled from the config file's name
    config.seed = 0
    # An objective to train the same network with beside the main one ('' = none).
    config.twin = ""
    config.deterministic = False  # deterministic GPU kernels, slower

    config.data = ConfigDict()
    config.data.name = "digits"
    config.data.image_size = 0  # 0 = the set's own
    config.data.train_examples = 0  # 0 = all
    config.data.test_examples = 0
    config.data.validation_examples = 1000  # held out of the training split
    config.data.augment = ConfigDict(
        {
            "crop_padding": 0,
            "flip": False,
            "rotation": 0.0,
            "color_jitter": 0.0,
            "random_resized_crop": 0.0,
            "probability": 1.0,
        }
    )

    config.model = ConfigDict({"name": "ssp_cifar"})

    # Fields a method does not know are left alone by it.
    config.objective = ConfigDict(
        {
            "name": "pgd",
            "attack_bn": "train",
            "label_smoothing": 0.0,
            "beta": 6.0,
            "draws": 5,
        }
    )
    # The training attack.
    config.attack = ConfigDict(
        {
            "norm": "linf",
            "eps": "8/255",
            "step_size": "2/255",
            "steps": 7,
            "quantize": False,
        }
    )

    config.optimizer = ConfigDict(
        {
            "name": "sgd",
            "learning_rate": 0.1,
            "momentum": 0.9,
            "nesterov": True,
            "b1": 0.9,
            "b2": 0.999,
            "weight_decay": 5e-4,
            "clip_norm": 0.0,  # 0 = no clipping
        }
    )
    config.schedule = ConfigDict(
        {
            "name": "step",  # step, cosine, constant, plateau
            "milestones": (80.0, 140.0, 180.0),  # epochs
            "factor": 0.1,
            "warmup_epochs": 0.0,
            "patience": 10,  # validations without progress, for plateau
        }
    )

    config.train = ConfigDict(
        {
            "epochs": 200.0,  # may be a part of one
            "batch_size": 128,
            "ema": 0.0,  # decay of the averaged weights; 0 = off
            "compute_dtype": "float32",  # or bfloat16
            "precision": "default",  # of matmuls and convolutions
            "log_every_steps": 50,
            "save_every_steps": 500,
            "validate_every_epochs": 1.0,
        }
    )
    # The attack on the held-out slice that picks `best_robust`.
    config.validation = ConfigDict(
        {
            "batch_size": 250,
            "attack": ConfigDict(
                {
                    "name": "pgd",
                    "norm": "linf",
                    "eps": "8/255",
                    "step_size": "2/255",
                    "steps": 10,
                }
            ),
        }
    )

    config.eval = ConfigDict()
    config.eval.batch_size = 250
    config.eval.examples = 0  # 0 = all test images
    config.eval.precision = "highest"
    config.eval.attacks = linf_suite("8/255", "2/255")
    config.eval.curve = ConfigDict(
        {
            "eps": ("0", "2/255", "4/255", "8/255", "12/255", "16/255", "32/255", "1"),
            "steps": 20,
            "examples": 500,
        }
    )
    config.eval.growth = ConfigDict(
        {
            "enabled": True,
            "eps": "8/255",
            "step_size": "2/255",
            "steps": 20,
            "examples": 1000,
        }
    )
    config.eval.grid = 8  # images shown in the report
    config.eval.save_adversarial = False
    return config


def linf_suite(eps: str, step_size: str) -> ConfigDict:
    """Returns FGSM, PGD-20 and uniform noise at one radius: the papers' usual table.

    PGD starts at the clean image, as the papers' evaluations do.
    """
    common = {"norm": "linf", "eps": eps}
    pgd = {"step_size": step_size, "steps": 20, "random_start": True}
    return ConfigDict(
        {
            "fgsm": {"name": "fgsm", **common},
            "pgd20": {"name": "pgd", **common, **pgd},
            "ball": {"name": "uniform_noise", **common, "draws": 10},
        }
    )


def use_radius(config: ConfigDict, eps: str, step_size: str, steps: int) -> None:
    """Sets one Linf radius everywhere: training, validation, evaluation, analysis."""
    for fields in (config.attack, config.validation.attack, config.eval.growth):
        fields.eps, fields.step_size = eps, step_size
    config.attack.steps = steps
    config.eval.attacks = linf_suite(eps, step_size)


def shrink(config: ConfigDict) -> None:
    """Shrinks a run to seconds, to see that it works; its numbers mean nothing."""
    config.data.train_examples = 192
    config.data.validation_examples = 64
    config.data.test_examples = 64
    config.model.blocks = 1
    config.attack.steps = 2
    config.train.batch_size = 64
    config.train.epochs = 1.0
    config.validation.batch_size = 64
    config.validation.attack.steps = 2
    config.eval.batch_size = 64
    config.eval.curve.examples = 32
    config.eval.growth.examples = 32


def fit_cpu(config: ConfigDict, epochs: float) -> None:
    """Cuts a run down to `epochs` and a cosine schedule, for a few CPU cores."""
    config.train.epochs = epochs
    config.schedule.name = "cosine"
    config.data.validation_examples = 500
    config.train.validate_every_epochs = max(epochs / 4, 0.05)
    config.train.save_every_steps = 50
    config.train.log_every_steps = 10
    config.data.test_examples = 2000
    config.eval.curve.examples = 200
    config.eval.growth.examples = 200
