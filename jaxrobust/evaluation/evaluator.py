"""The evaluation of one network: from a config to results.json."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Bool

from jaxrobust import data, models, parallel
from jaxrobust.array_types import Variables
from jaxrobust.data import Dataset
from jaxrobust.evaluation import (
    adaptive,
    analyses,
    flags,
    flags_of_attacks,
    outputs,
    paired,
    passes,
    robustbench,
    statistics,
    step,
    suite,
    transfer,
)
from jaxrobust.evaluation.autoattack import entry as autoattack
from jaxrobust.evaluation.setting import Setting, choose, shuffled
from jaxrobust.named_models import count_classes
from jaxrobust.parallel import processes
from jaxrobust.runtime import environment

Results = dict[str, Any]


def evaluate(
    model: nn.Module,
    variables: Variables,
    config: Mapping[str, Any],
    workdir: epath.PathLike,
    *,
    dataset: Dataset | None = None,
    mesh: Mesh | None = None,
    own_analyses: analyses.Own = analyses.NONE,
    progress: step.Progress | None = None,
) -> Results:
    """Attacks a network as `config.eval` says and writes what was found.

    Args:
      model: a Linen module.
      variables: of it.
      config: with `seed`, `data` and `eval`, as `training.config.base` has them.
      workdir: gets `results.json`, `evaluation.npz`, `robustbench.json` and, where the
        config asks for it, `adversarial.npz`. Existing ones are replaced.
      dataset: test images; by default the test split that the config names.
      mesh: devices to split batches over.
      own_analyses: the caller's, by the label under which `config.eval.own_analyses`
        has their fields; what it names itself is not imported here.
      progress: told after each batch.

    Returns:
      What results.json holds.

    Raises:
      ValueError: for an unknown attack or bad radius in the config (before any work),
        logits that are not finite, or an attack that leaves its ball.
    """
    fields = config["eval"]
    name, method = config["data"]["name"], adaptive.method_of(config)
    entries, pending = suite.chosen(fields, name, method)
    analyses.check(fields, own_analyses)
    pick = shuffled if passes.width_of(fields) else choose
    robustbench.read_about(fields.get("robustbench", {}))
    dataset = load_test(config) if dataset is None else dataset
    processes.check_same("the test data", lambda: data.digest(dataset))
    if mesh is not None:  # once, and not in every pass
        variables = parallel.replicate(mesh, variables)
    classes = _check_fit(model, variables, dataset, name)
    own = config.get("model", {}).get("name")
    entries = transfer.connect(entries, classes, dataset, name, own)
    state = epath.Path(workdir) / "autoattack"
    entries = autoattack.connect(entries, state, fields.get("slots", 0))
    analyses.check_images(fields, dataset.images.shape[1:], own_analyses)
    setting = Setting(
        model=model,
        variables=variables,
        dataset=dataset,
        indices=pick(len(dataset.labels), fields["examples"]),
        key=jax.random.key(config["seed"]),
        batch_size=fields["batch_size"],
        mesh=mesh,
        precision=fields["precision"],
        progress=progress,
    )
    setting, results, runs = attack_all(setting, entries, fields)
    arrays = outputs.predictions(setting, entries, runs)
    arrays |= outputs.grid(setting, entries, results, runs, fields)
    plain = flags.predictions(runs["clean"].logits, setting.labels)
    nothing = flags.learned_nothing(**plain, n=len(setting.labels))
    found = flags.joined(
        [*nothing, *(flag for run in runs.values() for flag in run.flags)],
        [
            *flags_of_attacks.from_attacks(results["attacks"]),
            *flags_of_attacks.raised(results["attacks"], results["clean"]),
        ],
    )
    context = analyses.Context(
        setting, entries, results["attacks"], {}, name, fields["grid"]
    )
    for one in analyses.run(context, fields, runs, own_analyses):
        add(one, results)
        arrays |= one.arrays
        found = flags.joined(found, one.flags)
    results["flags"] = found
    results["suite"] = fields.get("suite", "")
    if draws := getattr(model, "draws", 0):
        results["randomised"] = {"draws": draws, "right_in": step.HALF}
    if getattr(model, "black_box", False):
        results["black_box"] = True
    results["pending"] = [attack._asdict() for attack in pending]
    results["data"] = {
        "name": name,
        "examples": len(setting.indices),
        "of": len(dataset.labels),
    }
    results["environment"] = environment.describe(fields["precision"])
    if processes.is_lead():
        if compared := paired.with_twin(workdir, results, arrays):
            results["comparison"] = compared
        outputs.write(workdir, results, arrays, robustbench.entry(results, config))
        if fields["save_adversarial"]:
            outputs.write_adversarial(workdir, setting, runs)
        autoattack.forget(state)
    return results


def add(found: analyses.Found, results: Results) -> None:
    """Adds what an analysis found to what results.json will hold."""
    for name, part in found.results.items():
        results[name] = {**results.get(name, {}), **part}
    for attack in results["attacks"]:
        attack |= found.of_attacks.get(attack["label"], {})


def _check_fit(
    model: nn.Module, variables: Variables, dataset: Dataset, name: str
) -> int:
    """Returns the number of classes; raises where network and data do not fit."""
    classes = count_classes(models.logits_fn(model, variables), dataset.shape, name)
    if len(dataset) and dataset.labels.max() >= classes:
        raise ValueError(
            f"the network has {classes} classes, but labels of {name} reach "
            f"{dataset.labels.max()}; it was trained on another data set."
        )
    return classes


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
) -> tuple[Setting, Results, dict[str, step.EvalRun]]:
    """Runs the clean images and every attack; see `passes.run`.

    Returns:
      The setting on the examples used, the parts `clean`, `attacks`, `worst_case`,
      `per_class` (and `stopping`) of results.json, and the runs by label.
    """
    done = passes.run(setting, entries, fields)
    runs, clean = done.runs, done.runs["clean"]
    attacks = [
        describe_attack(entry, runs[entry.label], done.seconds[entry.label])
        for entry in entries
    ]
    worst = passes.worst_case(entries, runs)
    results = {
        "clean": {
            **statistics.share(clean.correct, "accuracy"),
            "loss": float(clean.loss.mean()),
            "seconds": done.seconds["clean"],
        },
        "attacks": attacks,
        "worst_case": {
            **statistics.share(worst, "robust_accuracy"),
            "attacks": [entry.label for entry in entries if entry.eps is not None],
        },
        "per_class": per_class(done.setting, clean.correct, worst),
    }
    if done.stopping:
        results["stopping"] = done.stopping
    return done.setting, results, runs


def describe_attack(entry: suite.Entry, run: step.EvalRun, seconds: float) -> Results:
    """Returns what results.json says about one attack."""
    size = {norm: float(distance.mean()) for norm, distance in run.distance.items()}
    found = {
        **entry.describe(),
        **statistics.share(run.correct, "robust_accuracy"),
        "loss": float(run.loss.mean()),
        "mean_perturbation": size,
        "seconds": seconds,
    }
    if run.share is not None:
        found["expected_accuracy"] = float(run.share.mean())
    if run.stages:
        found["replaced"] = list(run.notes)
        found["stages"] = [
            {"name": name, "robust_accuracy": float(robust.mean()), **run.costs[name]}
            for name, robust in run.stages.items()
        ]
    return found


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
