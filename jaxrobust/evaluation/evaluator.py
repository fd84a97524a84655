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

from jaxrobust import data, models, parallel
from jaxrobust.array_types import Norm, Variables
from jaxrobust.data import Dataset
from jaxrobust.evaluation import (
    adaptive,
    analyses,
    corrupted,
    curve,
    flags,
    flags_of_attacks,
    growth,
    minimum,
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
from jaxrobust.evaluation.diagnose import DEFAULTS, diagnose_setting
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
    curves: bool = True,
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
      curves: also the accuracy over the radius, the growth ratios and the analyses.
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
    minimum.read_within(fields)
    pick = shuffled if passes.width_of(fields) else choose
    if "analysis" in fields:
        analyses.read_eps(fields["analysis"])
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
    if wanted := _corruptions(fields):
        corrupted.read(wanted, dataset.images.shape[1:])
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
    diagnosed: list[flags.Flag] = []
    # A config of before there were diagnostics gets the usual ones.
    wanted = {**DEFAULTS, **fields.get("diagnostics", {})}
    if wanted["enabled"]:
        results["diagnostics"], diagnosed = diagnose_setting(
            setting, entries, name, wanted
        )
        names = flags_of_attacks.OF_CROSS_ENTROPY
        diagnosed = flags_of_attacks.of_what_ran(diagnosed, names, results["attacks"])
    if curves:
        found += add_curves(setting, entries, fields, runs["clean"], results, arrays)
        if fields.get("analysis", {}).get("enabled"):
            numbers, more = analyses.run(setting, entries, runs, fields)
            results["analyses"], arrays = numbers, arrays | more
    if wanted := _corruptions(fields):
        robust = arrays["robust"] if entries else None
        clean = runs["clean"].correct
        numbers, more = corrupted.run(setting, wanted, clean, robust)
        results["corruptions"], arrays = numbers, arrays | more
    results["flags"] = flags.joined(found, diagnosed)
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


def _corruptions(fields: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns the fields of the corruptions where they are wanted."""
    wanted = fields.get("corruptions")
    return wanted if wanted and wanted["enabled"] else None


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
    within = minimum.read_within(fields)
    attacks: list[Results] = []
    for entry in entries:
        run = runs[entry.label]
        attacks.append(describe_attack(entry, run, done.seconds[entry.label]))
        if entry.eps is None:
            radii = minimum.radii_of(entry, entries, within)
            attacks[-1] |= minimum.describe(run, clean.correct, entry, radii)
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


def add_curves(
    setting: Setting,
    entries: Sequence[suite.Entry],
    fields: Mapping[str, Any],
    clean: step.EvalRun,
    results: Results,
    arrays: dict[str, Any],
) -> list[flags.Flag]:
    """Adds the accuracy over the radius and the growth ratios; returns flags."""
    wanted, found = fields["curve"], []
    if wanted["eps"]:
        norms: list[Norm] = [e.norm for e in entries if e.eps is not None]
        norm = norms[0] if norms else "linf"
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
        chance = flags.predictions(clean.logits, setting.labels)["chance"]
        found += flags_of_attacks.of_what_ran(
            flags_of_attacks.from_curve(results["curve"], chance, size),
            flags_of_attacks.OF_CURVE,
            results["attacks"],
        )
    if fields["growth"]["enabled"]:
        ratios = growth.run(
            setting.part(fields["growth"]["examples"]), fields["growth"]
        )
        if ratios:
            results["growth"] = ratios
    return found
