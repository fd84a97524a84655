"""The evaluation of one network: from a config to results.json."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from etils import epath
from jax.sharding import Mesh

from jaxrobust import data, models
from jaxrobust.array_types import Variables
from jaxrobust.data import Dataset
from jaxrobust.evaluation import (
    adaptive,
    analyses,
    flags,
    flags_of_attacks,
    flags_of_training,
    passes,
    preprocessed,
    robustbench,
    statistics,
    step,
    suite,
    transfer,
)
from jaxrobust.evaluation import logits as of_logits
from jaxrobust.evaluation.autoattack.entry import AutoAttack
from jaxrobust.evaluation.setting import Devices, Setting, picked, shuffled
from jaxrobust.named_models import count_classes
from jaxrobust.parallel import processes
from jaxrobust.results import schema, typed
from jaxrobust.results.npz import CLEAN
from jaxrobust.runtime import environment, files


def evaluate(
    model: nn.Module,
    variables: Variables,
    config: Mapping[str, Any],
    workdir: epath.PathLike,
    *,
    dataset: Dataset | None = None,
    mesh: Mesh | None = None,
    own_analyses: analyses.Own = analyses.NONE,
    metrics: Sequence[Mapping[str, Any]] = (),
    evaluated: schema.EvaluatedNetwork | None = None,
    progress: step.ProgressSink | None = None,
) -> dict[str, Any]:
    """Attacks a network as `config.eval` says and writes what was found.

    Args:
      model: a Linen module.
      variables: of it.
      config: with `seed`, `data` and `eval`, as `training.config.base` has them.
      workdir: gets `results.json`, what is returned, `evaluation.npz`,
        `robustbench.json` and, where the config asks for it, `adversarial.npz`.
      dataset: test images; by default the test split that the config names.
      mesh: devices to split batches over.
      own_analyses: the caller's, by the label under which `config.eval.own_analyses`
        has their fields; what it names itself is not imported here.
      metrics: rows of metrics.jsonl of its training, for signs that they give.
      evaluated: what results.json says of the network and of how it was asked for.
      progress: told after each batch.

    Raises:
      ValueError: for a mistake in the config (before any work), logits that are not
        finite, or an attack that leaves its ball.
    """
    if config["eval"].get("preprocessing", ""):
        preprocessed.fields_behind(config, getattr(model, "draws", 0))
        dataset = load_test(config) if dataset is None else dataset
        model, variables, config = preprocessed.defended(
            model, variables, config, dataset
        )
    name, fields = config["data"]["name"], config["eval"]
    entries, pending = suite.chosen(fields, name, adaptive.method_of(config))
    analyses.check(fields, entries, own_analyses)
    robustbench.read_about(fields.get("robustbench", {}))
    dataset = load_test(config) if dataset is None else dataset
    processes.check_same("the test data", lambda: data.digest(dataset))
    # Blocks end anywhere, so that each has to be a fair draw.
    pick = shuffled if passes.width_of(fields) else picked
    setting = Setting(
        model=model,
        variables=Devices(mesh).put_copies(variables),  # once for all passes
        dataset=dataset,
        indices=pick(len(dataset.labels), fields["examples"]),
        key=jax.random.key(config["seed"]),
        batch_size=fields["batch_size"],
        mesh=mesh,
        precision=step.exact(fields["precision"]),
        fast=fields["precision"] == step.FAST,
        progress=progress,
    )
    folder = epath.Path(workdir)
    state = folder / "autoattack"
    entries = _connected(entries, setting, config, state)
    analyses.check_images(fields, dataset.images.shape[1:], own_analyses)
    analyses.check_data(fields, dataset)
    done = passes.run(setting, entries, fields)
    results, arrays = _analysed(done, config, own_analyses)
    of_training = flags_of_training.robustness_lost(
        metrics, config["data"].get("validation_examples", 0)
    )
    told = [*results.flags, *(typed.make(schema.Flag, one) for one in of_training)]
    results = dataclasses.replace(
        results, flags=told, pending=pending, evaluated=evaluated
    )
    if processes.is_lead():
        # A program too, which `python -m` must not find imported already.
        from jaxrobust.evaluation import comparison

        compared = comparison.with_twin(workdir, results, arrays)
        results = dataclasses.replace(results, comparison=compared)
        files.write_npz(folder / "evaluation.npz", arrays, compress=True)
        leaderboard = robustbench.entry(results, config)
        files.write_json(folder / "robustbench.json", leaderboard)
        files.write_json(folder / "results.json", typed.as_json(results))
        if fields["save_adversarial"]:
            passes.write_adversarial(workdir, done.setting, done.runs)
        if state.exists():
            state.rmtree()
    return typed.as_json(results)


def _connected(
    entries: Sequence[suite.Entry],
    setting: Setting,
    config: Mapping[str, Any],
    state: epath.Path,
) -> list[suite.Entry]:
    """Loads what attacks need; raises where network and data do not fit."""
    dataset, name = setting.dataset, config["data"]["name"]
    logits_fn = models.logits_fn(setting.model, setting.variables)
    classes = count_classes(logits_fn, dataset.shape, name)
    if len(dataset) and dataset.labels.max() >= classes:
        raise ValueError(
            f"the network has {classes} classes, but labels of {name} reach "
            f"{dataset.labels.max()}; it was trained on another data set."
        )
    own = config.get("model", {}).get("name")
    slots = config["eval"].get("slots", 0)
    return [
        entry.kept_in(state, slots) if isinstance(entry, AutoAttack) else entry
        for entry in transfer.connect(entries, classes, dataset, name, own)
    ]


def _analysed(
    done: passes.Passes, config: Mapping[str, Any], own_analyses: analyses.Own
) -> tuple[schema.Results, dict[str, Any]]:
    """Returns results and arrays: of the attacks, then of each analysis."""
    fields, setting, runs = config["eval"], done.setting, done.runs
    name, draws = config["data"]["name"], getattr(setting.model, "draws", 0)
    results = attacked(done)
    attacks = results.attacks
    arrays = passes.predictions(done) | passes.grid(done, attacks, fields)
    plain = flags.predictions(runs[CLEAN].logits, setting.labels)
    nothing = flags.learned_nothing(**vars(plain), n=len(setting.labels))
    odd = of_logits.looks_like_probabilities(runs[CLEAN].logits)
    of_model = [flags.probabilities_as_logits()] * odd
    raised = flags_of_attacks.raised(attacks, results.clean)
    found = flags.joined(
        [*nothing, *of_model, *(flag for run in runs.values() for flag in run.flags)],
        [*flags_of_attacks.from_attacks(attacks), *raised],
    )
    context = analyses.Context(setting, done.entries, attacks, {}, name, fields["grid"])
    for one in analyses.run(context, fields, runs, own_analyses):
        parts = {
            field: typed.merged(getattr(results, field), part)
            for field, part in one.results.items()
        }
        told = [
            typed.updated(attack, one.of_attacks.get(attack.label, {}))
            for attack in results.attacks
        ]
        results = dataclasses.replace(results, **parts, attacks=told)
        arrays |= one.arrays
        found = flags.joined(found, one.flags)
    count, total = len(setting.indices), len(setting.dataset.labels)
    results = dataclasses.replace(
        results,
        flags=[typed.make(schema.Flag, one) for one in found],
        suite=fields.get("suite", ""),
        preprocessing=fields.get("preprocessing") or None,
        randomised=schema.Randomised(draws=draws, right_in=step.HALF)
        if draws
        else None,
        black_box=getattr(setting.model, "black_box", False) or None,
        data=schema.Data(name=name, examples=count, of=total),
        environment=environment.describe(fields["precision"]),
    )
    return results, arrays


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


def attacked(done: passes.Passes) -> schema.Results:
    """Returns what the attacks give, without flags."""
    entries, runs, clean = done.entries, done.runs, done.runs[CLEAN]
    worst = passes.worst_case(entries, runs)
    return schema.Results(
        clean=schema.Clean(
            **statistics.share(clean.correct, "accuracy"),
            loss=float(clean.loss.mean()),
            seconds=done.seconds[CLEAN],
        ),
        attacks=[
            describe_attack(entry, runs[entry.label], done.seconds[entry.label])
            for entry in entries
        ],
        worst_case=schema.WorstCase(
            **statistics.share(worst, "robust_accuracy"),
            attacks=[entry.label for entry in entries if entry.eps is not None],
        ),
        other_threats=[
            schema.OtherThreat(
                threat=name,
                attacks=labels,
                **statistics.share(right, "robust_accuracy"),
            )
            for name, (labels, right) in passes.other_worst_cases(entries, runs).items()
        ]
        or None,
        flags=[],
        per_class=[
            schema.OfClass(
                name=name,
                n=int(own.sum()),
                accuracy=float(clean.correct[own].mean()),
                robust_accuracy=float(worst[own].mean()),
            )
            for number, name in enumerate(done.setting.dataset.class_names)
            if (own := done.setting.labels == number).any()
        ],
        stopping=done.stopping,
    )


def describe_attack(
    entry: suite.Entry, run: step.EvalRun, seconds: float
) -> schema.AttackSummary:
    """Returns what results.json says about one attack."""
    size = {norm: float(distance.mean()) for norm, distance in run.distance.items()}
    stages = [
        schema.StageSummary(
            name=name, robust_accuracy=float(robust.mean()), **run.costs[name]
        )
        for name, robust in run.stages.items()
    ]
    found = {
        **statistics.share(run.correct, "robust_accuracy"),
        "loss": float(run.loss.mean()),
        "mean_perturbation": schema.Sizes(**size),
        "seconds": seconds,
        "expected_accuracy": None if run.share is None else float(run.share.mean()),
        "replaced": list(run.notes) if stages else None,
        "stages": stages or None,
    }
    return typed.make(schema.AttackSummary, found | entry.describe())
