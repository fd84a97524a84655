"""The evaluation of one network: from a config to results.json."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Bool

from jaxrobust import data, models
from jaxrobust.array_types import Variables
from jaxrobust.data import Dataset
from jaxrobust.evaluation import (
    analyses,
    curve,
    environment,
    flags,
    growth,
    outputs,
    statistics,
    step,
    suite,
)
from jaxrobust.evaluation.diagnose import diagnose_setting
from jaxrobust.evaluation.fit import count_classes
from jaxrobust.evaluation.setting import Setting, choose

Results = dict[str, Any]


def evaluate(
    model: nn.Module,
    variables: Variables,
    config: Mapping[str, Any],
    workdir: epath.PathLike,
    *,
    dataset: Dataset | None = None,
    mesh: Mesh | None = None,
    curves: bool = True,
    progress: step.Progress | None = None,
) -> Results:
    """Attacks a network as `config.eval` says and writes what was found.

    Args:
      model: a Linen module.
      variables: of it.
      config: with `seed`, `data` and `eval`, as `training.config.base` has them.
      workdir: gets `results.json`, `evaluation.npz` and, where the config asks for it,
        `adversarial.npz`. Existing ones are replaced.
      dataset: test images; by default the test split that the config names.
      mesh: devices to split batches over.
      curves: also the accuracy over the radius, the growth ratios and the analyses.
      progress: told after each batch.

    Returns:
      What results.json holds.

    Raises:
      ValueError: for an unknown attack or bad radius in the config (before any work),
        logits that are not finite, or an attack that leaves its ball.
    """
    fields = config["eval"]
    entries, pending = suite.chosen(fields, config["data"]["name"])
    if "analysis" in fields:
        analyses.read_eps(fields["analysis"])
    dataset = load_test(config) if dataset is None else dataset
    _check_fit(model, variables, dataset, config["data"]["name"])
    setting = Setting(
        model=model,
        variables=variables,
        dataset=dataset,
        indices=choose(len(dataset.labels), fields["examples"]),
        key=jax.random.key(config["seed"]),
        batch_size=fields["batch_size"],
        mesh=mesh,
        precision=fields["precision"],
        progress=progress,
    )
    results, runs = attack_all(setting, entries, fields)
    arrays = outputs.predictions(setting, runs)
    arrays |= outputs.grid(setting, entries, results, runs, fields)
    found, diagnosed = flags.from_attacks(results["attacks"]), []
    if fields.get("diagnostics", {}).get("enabled"):
        results["diagnostics"], diagnosed = diagnose_setting(
            setting, entries, config["data"]["name"], fields["diagnostics"]
        )
    if curves:
        found += add_curves(setting, entries, fields, results, arrays)
        if fields.get("analysis", {}).get("enabled"):
            numbers, more = analyses.run(setting, entries, runs, fields)
            results["analyses"], arrays = numbers, arrays | more
    results["flags"] = flags.joined(found, diagnosed)
    results["suite"] = fields.get("suite", "")
    results["pending"] = [attack._asdict() for attack in pending]
    results["data"] = {
        "name": config["data"]["name"],
        "examples": len(setting.indices),
        "of": len(dataset.labels),
    }
    results["environment"] = environment.describe(fields["precision"])
    outputs.write(workdir, results, arrays)
    if fields["save_adversarial"]:
        outputs.write_adversarial(workdir, setting, runs)
    return results


def _check_fit(
    model: nn.Module, variables: Variables, dataset: Dataset, name: str
) -> None:
    classes = count_classes(models.logits_fn(model, variables), dataset, name)
    if len(dataset) and dataset.labels.max() >= classes:
        raise ValueError(
            f"the network has {classes} classes, but labels of {name} reach "
            f"{dataset.labels.max()}; it was trained on another data set."
        )


def load_test(config: Mapping[str, Any]) -> Dataset:
    """Loads the test split that the config names."""
    fields = config["data"]
    return data.load(
        fields["name"],
        "test",
        image_size=fields["image_size"] or None,
        channels=fields["channels"],
        limit=fields["test_examples"] or None,
    )


def attack_all(
    setting: Setting, entries: Sequence[suite.Entry], fields: Mapping[str, Any]
) -> tuple[Results, dict[str, step.EvalRun]]:
    """Runs the clean images and every attack.

    Returns:
      The parts `clean`, `attacks`, `worst_case` and `per_class` of results.json, and
      the runs by label, `clean` first.
    """
    keep: Any = choose(len(setting.indices), fields["grid"])
    if fields["save_adversarial"]:
        keep = len(setting.indices)
    elif fields["grid"] == 0:
        keep = 0
    runs: dict[str, step.EvalRun] = {}
    attacks: list[Results] = []
    begin = time.monotonic()
    clean = step.make_eval_step(setting.model, precision=setting.precision)
    runs["clean"] = setting.run(clean, "clean")
    seconds = time.monotonic() - begin
    for entry in entries:
        begin = time.monotonic()
        attacked = step.make_eval_step(
            setting.model, entry.build(), precision=setting.precision
        )
        run = setting.run(attacked, entry.label, keep=keep, ball=entry.ball())
        runs[entry.label] = run
        attacks.append(describe_attack(entry, run, time.monotonic() - begin))
    worst = np.logical_and.reduce([run.correct for run in runs.values()])
    results = {
        "clean": {
            **statistics.share(runs["clean"].correct, "accuracy"),
            "loss": float(runs["clean"].loss.mean()),
            "seconds": seconds,
        },
        "attacks": attacks,
        "worst_case": {
            **statistics.share(worst, "robust_accuracy"),
            "attacks": [entry.label for entry in entries],
        },
        "per_class": per_class(setting, runs["clean"].correct, worst),
    }
    return results, runs


def describe_attack(entry: suite.Entry, run: step.EvalRun, seconds: float) -> Results:
    """Returns what results.json says about one attack."""
    size = {norm: float(distance.mean()) for norm, distance in run.distance.items()}
    return {
        **entry.describe(),
        **statistics.share(run.correct, "robust_accuracy"),
        "loss": float(run.loss.mean()),
        "mean_perturbation": size,
        "seconds": seconds,
    }


def per_class(
    setting: Setting, clean: Bool[np.ndarray, "N"], worst: Bool[np.ndarray, "N"]
) -> list[Results]:
    """Returns clean and worst-case accuracy of each class among the examples."""
    rows = []
    for number, name in enumerate(setting.dataset.class_names):
        own = setting.labels == number
        if own.any():
            rows.append(
                {
                    "class": name,
                    "n": int(own.sum()),
                    "accuracy": float(clean[own].mean()),
                    "robust_accuracy": float(worst[own].mean()),
                }
            )
    return rows


def add_curves(
    setting: Setting,
    entries: Sequence[suite.Entry],
    fields: Mapping[str, Any],
    results: Results,
    arrays: dict[str, Any],
) -> list[flags.Flag]:
    """Adds the accuracy over the radius and the growth ratios; returns flags."""
    wanted, found = fields["curve"], []
    if wanted["eps"]:
        norm = entries[0].norm if entries else "linf"
        eps = [suite.parse_radius(text, "curve.eps") for text in wanted["eps"]]
        begin = time.monotonic()
        part = setting.part(wanted["examples"])
        correct = curve.run(part, eps, norm, wanted["steps"])
        written = [str(text) for text in wanted["eps"]]
        results["curve"] = {
            **curve.describe(correct, eps, written, norm, wanted["steps"]),
            "seconds": time.monotonic() - begin,
        }
        arrays |= {"curve_eps": np.asarray(eps), "curve_correct": correct}
        size = int(np.prod(setting.dataset.images.shape[1:]))
        classes = len(setting.dataset.class_names)
        found += flags.from_curve(results["curve"], classes, size)
    if fields["growth"]["enabled"]:
        ratios = growth.run(
            setting.part(fields["growth"]["examples"]), fields["growth"]
        )
        if ratios:
            results["growth"] = ratios
    return found
