"""The config that every experiment starts from, and its small parsers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict, config_dict

from jaxrobust._checks import nearest_match
from jaxrobust.data import augment, mix
from jaxrobust.evaluation import analyses
from jaxrobust.evaluation import config as evaluation_config
from jaxrobust.training.overrides import read


def parse_arg(arg: str | None, defaults: Mapping[str, str | float | bool]) -> Any:
    """Reads a config's argument string, `key=value,flag,...`.

    Values take the type of their key's default; a bare key turns a flag on. What the
    string has is no field of the result, but known to `given`.

    Raises:
      ValueError: for an unknown key (naming the nearest) or a value of another type.
    """
    result = ConfigDict(dict(defaults))
    known: set[str] = set()
    for item in filter(None, (arg or "").split(",")):
        key, equals, text = item.partition("=")
        if key not in defaults:
            hint = nearest_match(key, defaults)
            raise ValueError(f"unknown config argument {key!r}. {hint}")
        default = defaults[key]
        if isinstance(default, bool):
            text = text or "true"
        elif not equals:
            raise ValueError(f"`{key}` needs a value, as in {key}={default}.")
        elif isinstance(default, int) and not text.isdigit():
            raise ValueError(f"`{key}` must be a whole number, got {text!r}.")
        try:
            result[key] = read(text, default, type(default))
        except ValueError as error:
            raise ValueError(f"`{key}` must be {error}") from None
        known.add(key)
    object.__setattr__(result, "_given", frozenset(known))
    return result


def given(options: Any, key: str) -> bool:
    """Whether an argument was given: `budget=cpu` leaves it alone then."""
    return key in getattr(options, "_given", ())


_ATTACK = {"norm": "linf", "eps": "8/255", "step_size": "2/255"}
_DATA = {
    "name": "digits",
    "image_size": 0,  # 0 = the set's own
    "channels": 0,  # 0 = the set's own, 3 = grey copied to RGB
    "train_examples": 0,  # 0 = all
    "test_examples": 0,
    "validation_examples": 1000,  # held out of the training split
    # resident = on the devices, stream = read as needed, auto = by size.
    "feed": "auto",
    "augment": dataclasses.asdict(augment.Spec()),
    "mix": dataclasses.asdict(mix.MixSpec()),
    # An .npz with more images, `image` [N, H, W, C] and `label`, and which share of
    # each batch they are.
    "extra": {"file": "", "share": 0.7},
}
# Fields a method does not know are left alone by it.
_OBJECTIVE = {
    "name": "pgd",
    "attack_bn": "",  # BatchNorm of attack passes: train, eval or '' (the method's own)
    # Epochs over which the training attack's radius grows from 0.
    "attack_warmup_epochs": 0.0,
    "label_smoothing": 0.0,
    "draws": 5,
    "awp_gamma": 0.0,  # adversarial weight perturbation of any objective; 0 = off
    "awp_warmup_epochs": 0.0,
}
_OPTIMIZER = {
    "name": "sgd",  # sgd, adam, adamax, adamw
    "learning_rate": 0.1,
    "momentum": 0.9,
    "nesterov": True,
    "b1": 0.9,
    "b2": 0.999,
    "weight_decay": 5e-4,
    "clip_norm": 0.0,  # 0 = no clipping
}
_SCHEDULE = {
    "name": "step",  # step, piecewise, cosine, cyclic, constant, plateau
    "milestones": (80.0, 140.0, 180.0),  # epochs
    "factor": 0.1,
    "scales": (),  # of the rate from each milestone on, for piecewise
    "warmup_epochs": 0.0,
    "peak": 0.5,  # share of the run after which the cyclic rate is highest
    "patience": 10,  # validations without progress, for plateau
}
_TRAIN = {
    "epochs": 200.0,  # may be a part of one
    "batch_size": 128,
    "ema": 0.0,  # decay of the averaged weights; 0 = off
    # Last epochs, a whole number, whose weights are averaged evenly; 0 = off.
    "swa_epochs": 0.0,
    # bfloat16 keeps parameters, statistics and losses in float32; float64 is all of it,
    # for tests of parity (JAX_ENABLE_X64=1).
    "compute_dtype": "float32",
    # Parts a batch is worked on in, one after the other, for less memory.
    "accumulate": 1,
    "remat": False,  # compute the network's blocks again in backward passes, likewise
    "log_every_steps": 50,
    "save_every_steps": 500,
    "validate_every_epochs": 1.0,
    "early_stop": 0,  # validations without better clean accuracy that end it; 0 = off
    # Updates in a row that may be dropped because they are not finite; 0 = the first
    # ends the run.
    "skip_nonfinite": 0,
    "init_from": "",  # a work directory or checkpoint whose network to start from
    # What of it to leave out, by names joined by commas; head = the classifier, for
    # other classes.
    "init_skip": "",
    "extend": False,  # go on with a run to more epochs, or at another rate
    "allow_changed_data": False,  # go on although the training data are others now
}


_LOG = {
    # Beside metrics.jsonl: tensorboard, csv, wandb, mlflow.
    "writers": ("tensorboard",),
    "project": "jaxrobust",  # of W&B, and MLflow's experiment
}


def base() -> Any:
    """Returns every field of a run with a default; experiments change some of them."""
    return ConfigDict(
        {
            "name": "",  # filled from the config file's name
            "seed": 0,
            # An objective to train the same network with beside the main one.
            "twin": "",
            # Of matmuls and convolutions in training; evaluation runs at `highest`.
            "precision": "default",
            "deterministic": False,  # deterministic GPU kernels, slower
            # On CPUs: compile in about half the time what then runs a little slower.
            "quick_compile": False,
            "data": _DATA,
            "model": {"name": "ssp_cifar"},
            # `beta` is of trades, mart and ssc; None = the method's own.
            "objective": {**_OBJECTIVE, "beta": config_dict.placeholder(float)},
            # The training attack.
            "attack": {**_ATTACK, "steps": 7, "quantize": False},
            "optimizer": _OPTIMIZER,
            # For a defence with trainables of its own: label -> the fields in which
            # their optimiser differs.
            "label_optimizers": {},
            "schedule": _SCHEDULE,
            "train": _TRAIN,
            # The attack on the held-out slice picks `best_robust`.
            "validation": {
                "batch_size": 250,
                "attack": {"name": "pgd", **_ATTACK, "steps": 10},
            },
            "eval": evaluation_config.defaults(),
            "log": _LOG,
        }
    )


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config of an earlier version with the defaults of newer fields.

    Tables of a user's own making (`model`, attacks) stay as they are.
    """
    return _over(base().to_dict(), config)


# Tables that stand for themselves.
_WHOLE = ("model", "attacks", "within", "attack", "own_analyses")


def _over(default: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    found = {**default, **given}
    for name, below in default.items():
        above = given.get(name)
        if isinstance(below, Mapping) and isinstance(above, Mapping):
            found[name] = above if name in _WHOLE else _over(below, above)
    return found


def use_radius(config: Any, eps: str, step_size: str, steps: int) -> None:
    """Sets one Linf radius everywhere: training, validation, evaluation, analysis."""
    for fields in (config.attack, config.validation.attack):
        fields.eps, fields.step_size = eps, step_size
    config.attack.steps = steps
    evaluation_config.use_radius(config.eval, eps, step_size)


def use_piecewise(config: Any, steps: Sequence[tuple[float, float]]) -> None:
    """Sets a rate that changes at epochs; `steps` are these, each with its factor."""
    epochs, scales = zip(*steps, strict=True)
    config.schedule.update(name="piecewise", milestones=epochs, scales=scales)


def shrink(config: Any) -> None:
    """Shrinks a run to seconds, to see that it works; its numbers mean nothing."""
    config.quick_compile = True
    config.data.update(train_examples=192, validation_examples=64, test_examples=64)
    for field, least in (("blocks", 1), ("layers", (1, 1, 1, 1))):
        if field in config.model:
            config.model[field] = least
    config.attack.steps = config.validation.attack.steps = 2
    config.train.update(batch_size=64, epochs=1.0)
    config.validation.batch_size = config.eval.batch_size = 64
    analyses.set_fields(config.eval, "QUICK")


def fit_cpu(config: Any, epochs: float) -> None:
    """Cuts a run down to `epochs` and a cosine schedule, for a few CPU cores."""
    config.schedule.name = "cosine"
    config.data.update(validation_examples=500, test_examples=2000)
    config.train.update(
        epochs=epochs,
        validate_every_epochs=max(epochs / 4, 0.05),
        save_every_steps=50,
        log_every_steps=10,
    )
    analyses.set_fields(config.eval, "ON_CPU")


# Arguments of a config that `finish` applies.
FINISHING: dict[str, str | int | bool] = {"twin": "", "budget": "", "quick": False}


def finish(config: Any, options: Any, fit: Callable[[Any], None], **small: int) -> None:
    """Applies the arguments `twin`, `budget` and `quick` of a config.

    `fit` is what `budget=cpu` does to it (another budget is a ValueError), `small` the
    fields of the network that `quick` sets.
    """
    config.twin = options.twin
    if options.budget == "cpu":
        fit(config)
    elif options.budget:
        raise ValueError(f"`budget` is cpu or left out, got {options.budget!r}.")
    if options.quick:
        shrink(config)
        config.model.update(small)
