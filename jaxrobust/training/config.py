"""The config that every experiment starts from, and its small parsers."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from jaxrobust.evaluation import config as evaluation_config


def parse_arg(arg: str | None, defaults: Mapping[str, str | int | bool]) -> Any:
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


def base() -> Any:
    """Returns every field of a run with a default; experiments change some of them."""
    validation_attack = {
        "name": "pgd",
        "norm": "linf",
        "eps": "8/255",
        "step_size": "2/255",
        "steps": 10,
    }
    return ConfigDict(
        {
            "name": "",  # filled from the config file's name
            "seed": 0,
            # An objective to train the same network with beside the main one.
            "twin": "",
            # Of matmuls and convolutions in training; evaluation runs at `highest`.
            "precision": "default",
            "deterministic": False,  # deterministic GPU kernels, slower
            "data": {
                "name": "digits",
                "image_size": 0,  # 0 = the set's own
                "channels": 0,  # 0 = the set's own, 3 = grey copied to RGB
                "train_examples": 0,  # 0 = all
                "test_examples": 0,
                "validation_examples": 1000,  # held out of the training split
                # resident = on the devices, stream = read as needed, auto = by size.
                "feed": "auto",
                "augment": {
                    "crop_padding": 0,
                    "flip": False,
                    "rotation": 0.0,
                    "color_jitter": 0.0,
                    "hue": 0.0,
                    "random_resized_crop": 0.0,
                    "probability": 1.0,
                },
            },
            "model": {"name": "ssp_cifar"},
            # Fields a method does not know are left alone by it.
            "objective": {
                "name": "pgd",
                # BatchNorm of attack passes: train, eval or '' (the method's own).
                "attack_bn": "",
                # Epochs over which the training attack's radius grows from 0.
                "attack_warmup_epochs": 0.0,
                "label_smoothing": 0.0,
                # Of trades, mart and ssc; None = the method's own.
                "beta": config_dict.placeholder(float),
                "draws": 5,
                # Adversarial weight perturbation of any objective; 0 = off.
                "awp_gamma": 0.0,
                "awp_warmup_epochs": 0.0,
            },
            # The training attack.
            "attack": {
                "norm": "linf",
                "eps": "8/255",
                "step_size": "2/255",
                "steps": 7,
                "quantize": False,
            },
            "optimizer": {
                "name": "sgd",  # sgd, adam, adamax, adamw
                "learning_rate": 0.1,
                "momentum": 0.9,
                "nesterov": True,
                "b1": 0.9,
                "b2": 0.999,
                "weight_decay": 5e-4,
                "clip_norm": 0.0,  # 0 = no clipping
            },
            # For a defence with trainables of its own: label -> the fields in which
            # their optimiser differs.
            "label_optimizers": {},
            "schedule": {
                "name": "step",  # step, piecewise, cosine, constant, plateau
                "milestones": (80.0, 140.0, 180.0),  # epochs
                "factor": 0.1,
                "scales": (),  # of the rate from each milestone on, for piecewise
                "warmup_epochs": 0.0,
                "patience": 10,  # validations without progress, for plateau
            },
            "train": {
                "epochs": 200.0,  # may be a part of one
                "batch_size": 128,
                "ema": 0.0,  # decay of the averaged weights; 0 = off
                # bfloat16 keeps parameters, statistics and losses in float32; float64
                # is all of it, for tests of parity (JAX_ENABLE_X64=1).
                "compute_dtype": "float32",
                # Parts a batch is worked on in, one after the other, for less memory.
                "accumulate": 1,
                # Compute the network's blocks again in backward passes, likewise.
                "remat": False,
                "log_every_steps": 50,
                "save_every_steps": 500,
                "validate_every_epochs": 1.0,
                # Validations without better clean accuracy that end it; 0 = off.
                "early_stop": 0,
                # Updates in a row that may be dropped because they are not finite;
                # 0 = the first ends the run.
                "skip_nonfinite": 0,
                # A work directory or checkpoint whose network to start from.
                "init_from": "",
                # What of it to leave out, by names joined by commas; head = the
                # classifier, for other classes.
                "init_skip": "",
                # Go on with a run to more epochs, or at another rate.
                "extend": False,
                # Go on with a run although its training data are others now.
                "allow_changed_data": False,
            },
            # The attack on the held-out slice picks `best_robust`.
            "validation": {"batch_size": 250, "attack": validation_attack},
            "eval": evaluation_config.defaults(),
        }
    )


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config of an earlier version with the defaults of newer fields.

    Tables of a user's own making (`model`, attacks) stay as they are.
    """
    return _over(base().to_dict(), config, _WHOLE)


# Tables that stand for themselves.
_WHOLE = ("model", "attacks", "within", "attack", "own_analyses")


def _over(
    default: Mapping[str, Any], given: Mapping[str, Any], whole: tuple[str, ...]
) -> dict[str, Any]:
    found = {**default, **given}
    for name, below in default.items():
        above = given.get(name)
        if isinstance(below, Mapping) and isinstance(above, Mapping):
            found[name] = above if name in whole else _over(below, above, whole)
    return found


def use_radius(config: Any, eps: str, step_size: str, steps: int) -> None:
    """Sets one Linf radius everywhere: training, validation, evaluation, analysis."""
    for fields in (config.attack, config.validation.attack):
        fields.eps, fields.step_size = eps, step_size
    config.attack.steps = steps
    evaluation_config.use_radius(config.eval, eps, step_size)


def shrink(config: Any) -> None:
    """Shrinks a run to seconds, to see that it works; its numbers mean nothing."""
    config.data.train_examples = 192
    config.data.validation_examples = 64
    config.data.test_examples = 64
    for field, least in (("blocks", 1), ("layers", (1, 1, 1, 1))):
        if field in config.model:
            config.model[field] = least
    config.attack.steps = 2
    config.train.batch_size = 64
    config.train.epochs = 1.0
    config.validation.batch_size = 64
    config.validation.attack.steps = 2
    config.eval.batch_size = 64
    config.eval.curve.examples = 32
    config.eval.growth.examples = 32
    config.eval.diagnostics.examples = 32
    config.eval.diagnostics.steps = 2
    config.eval.diagnostics.queries = 10
    config.eval.analysis.examples = 32
    config.eval.analysis.steps = 2
    config.eval.corruptions.examples = 32


def fit_cpu(config: Any, epochs: float) -> None:
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
    config.eval.diagnostics.examples = 50
    config.eval.analysis.examples = 200


def finish(config: Any, options: Any, fit: Callable[[Any], None]) -> None:
    """Applies the arguments `twin`, `budget` and `quick` of a complete config.

    Args:
      config: complete but for them.
      options: what `parse_arg` returned.
      fit: what `budget=cpu` does to the config.

    Raises:
      ValueError: for another budget.
    """
    config.twin = options.twin
    if options.budget == "cpu":
        fit(config)
    elif options.budget:
        raise ValueError(f"`budget` is cpu or left out, got {options.budget!r}.")
    if options.quick:
        shrink(config)
