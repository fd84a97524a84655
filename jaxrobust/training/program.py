"""What the program does with a config: train, evaluate, and where results go."""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxrobust import checkpoints, evaluation, named_code, parallel, zoo
from jaxrobust.evaluation import analyses, attack_text, evaluator, protocols, suite
from jaxrobust.named_models import create_model
from jaxrobust.parallel import processes
from jaxrobust.results import schema
from jaxrobust.results.files import read_metrics
from jaxrobust.runtime import checkpoint_folder, files, out_of_memory, workdir
from jaxrobust.runtime.progress import StageProgress
from jaxrobust.training import config_file, loop, overrides, preemption, splits
from jaxrobust.training.ahead import compiling
from jaxrobust.training.check import check, check_data, check_evaluation, notices
from jaxrobust.training.config import base, completed

MODES = ("train_eval", "train", "eval", "report")


def default_workdir(path: str, overrides: dict[str, Any]) -> str:
    """Names a work directory after the config `path`, so that the same command resumes.

    Fields set by --config.field=value count, but for those that may change from run to
    run (`workdir.FREE`): a trained network can be attacked in another way.
    """
    file, argument = config_file.split(path)
    name = pathlib.Path(file).stem
    if argument:
        name += "-" + "".join(c if c.isalnum() or c in "=.," else "_" for c in argument)
    trained = sorted(
        (k, str(v)) for k, v in overrides.items() if not k.startswith(workdir.FREE)
    )
    if trained:
        name += f"-{hashlib.sha256(repr(trained).encode()).hexdigest()[:8]}"
    return os.path.join("runs", name)


def twin_of(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the config of the network trained beside the main one."""
    objective = {**config["objective"], "name": config["twin"]}
    name = f"{config['name']} (twin: {config['twin']})"
    return {**config, "name": name, "twin": "", "objective": objective}


def may_be_set(field: str) -> bool:
    """Whether an evaluation may set a field of the config that a checkpoint has."""
    return field.startswith("eval.") and not field.startswith("eval.own_analyses")


def with_attacks(config: dict[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Returns a config that evaluates with the attacks of `--attack` alone, if any.

    Its first radius is that of attacks that name none.
    """
    if not texts:
        return config
    fields = config["eval"]
    usual = {"eps": protocols.threat_of(config["data"]["name"]).eps}
    threat: Any = usual | suite.first_threat(fields["attacks"])
    source = fields.get("transfer_from", "")
    table = attack_text.table(texts, **threat, transfer_from=source)
    return {**config, "eval": {**fields, "attacks": table, "suite": ""}}


def evaluate_checkpoint(
    config: dict[str, Any] | None,
    folder: str,
    checkpoint: str | None,
    mesh: Mesh,
    command: str,
    attacks: Sequence[str] = (),
    fields: Sequence[overrides.Override] = (),
) -> None:
    """Attacks a checkpoint of `folder`, or the one at the path `checkpoint`.

    Without a config, the checkpoint's own is used, with `fields` set in it.
    """
    preemption.end_at_once()
    which = checkpoint or (checkpoints.evaluated(config) if config else None)
    source = folder
    if which is not None and which not in checkpoints.WHICH:
        source, which = which, None
    # Code that the checkpoint names is run only where the caller's config names it.
    name = config["model"]["name"] if config is not None else None
    model, variables, saved = checkpoints.load(source, which, model_name=name)
    if config is None:
        config = with_attacks(_with_fields(_stored(saved, source), fields), attacks)
        check_evaluation(config)
    _check_architecture(config, saved, source)
    processes.check_same(
        f"the checkpoint in {source}", lambda: processes.digest(variables)
    )
    dataset = evaluator.load_test(config)
    splits.check_classes(source, dataset.class_names, config["data"]["name"])
    kept: Any = {"defaults": base().to_dict()}
    if processes.is_lead():
        workdir.check_config(folder, config, **kept)
    metrics = _metrics(source)
    progress = StageProgress() if processes.is_lead() else None
    size = config["eval"]["batch_size"]
    slots = "in AutoAttack fewer --config.eval.slots"
    with out_of_memory.explained("--config.eval.batch_size", size, mesh.size, slots):
        evaluation.evaluate(
            model,
            variables,
            config,
            workdir=folder,
            dataset=dataset,
            mesh=mesh,
            own_analyses=analyses.load(config["eval"]),
            metrics=metrics,
            evaluated=schema.EvaluatedNetwork(
                command=command,
                checkpoint=checkpoint or checkpoints.evaluated(saved),
                # Of another folder's network they would be read against this one's.
                trained_steps=metrics[-1]["step"]
                if metrics and source == folder
                else None,
            ),
            progress=progress,
        )
    # With the results: until then there are those of the evaluation before.
    workdir.write_config(folder, config, command, **kept)
    if progress is not None:
        progress.close()
    processes.wait("jaxrobust: results are written")


def _metrics(source: str) -> list[dict[str, Any]]:
    """Returns the rows of the training that a checkpoint is of, where it is a run's."""
    if zoo.named(source) is not None:
        return []
    return read_metrics(files.expand(source) / "metrics.jsonl")


def _stored(saved: dict[str, Any], source: str) -> dict[str, Any]:
    """Returns the config of a checkpoint; ValueError unless it is one of ours."""
    if "eval" not in saved:
        raise ValueError(f"{source} holds weights without a config; give --config.")
    try:
        # Code that a file names is not run. A number without an analysis is the same
        # number; without an attack, say, it would be another.
        saved = {**saved, "eval": {**saved["eval"], "own_analyses": {}}}
        named_code.refuse(saved)
        config = completed(saved)
        check_evaluation(config)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        told = f"no {error}" if isinstance(error, KeyError) else f"{error}"
        [told, *more] = told.splitlines() or [type(error).__name__]
        told += f" and {len(more)} more" if more else ""
        raise ValueError(
            f"the config that {source} holds cannot be used ({told}); give --config."
        ) from None
    return config


def _with_fields(
    config: dict[str, Any], fields: Sequence[overrides.Override]
) -> dict[str, Any]:
    """Returns a stored config with fields that the command line sets."""
    changed = ConfigDict(config)
    overrides.apply(changed, fields)
    return changed.to_dict()


def _check_architecture(
    config: dict[str, Any], saved: dict[str, Any], source: str
) -> None:
    """Refuses a config that describes another network than the checkpoint holds."""
    given, there = (json.loads(json.dumps(c["model"])) for c in (config, saved))
    for field in given.keys() & there.keys():
        if given[field] != there[field]:
            raise ValueError(
                f"the checkpoint {source} holds another architecture: model.{field} is "
                f"{there[field]} there, {given[field]} in the config."
            )


def run(
    config: dict[str, Any] | None,
    folder: str,
    mode: str,
    checkpoint: str | None,
    command: str,
    attacks: Sequence[str] = (),
    fields: Sequence[overrides.Override] = (),
) -> dict[str, float]:
    """Runs a mode on a work directory that this process holds; its twin first.

    Without a config, a checkpoint is evaluated under its own, with `fields` set in it.
    `checkpoint` says which, or is a path (to evaluate only); `attacks` are texts, in
    place of the config's; `command` reproduces the run, for the report. A mistake in
    the config is a ValueError before any work.

    Returns:
      The seconds of each part, compilation included.
    """
    spent: dict[str, float] = {}
    checkpoints.usable(folder)
    folder = os.fspath(files.expand(folder))
    if checkpoint == "":  # a variable of the shell that is not set, say
        raise ValueError("--checkpoint is empty: leave it out, or say which.")
    named = checkpoint in (None, *checkpoints.WHICH)
    if not named and mode != "eval":
        raise ValueError(
            f"--checkpoint must be one of {', '.join(checkpoints.WHICH)} after "
            f"training, got {checkpoint!r}; a path needs --mode=eval."
        )
    if attacks and mode == "train":
        raise ValueError("--attack is for evaluations; --mode=train makes none.")
    for text in attacks:
        attack_text.parse(text)
    if config is not None:
        config = with_attacks(config, attacks)
        check(config)
        for line in notices(config, mode) if processes.is_lead() else ():
            logging.warning("%s", line)
    set_here = [overrides.written(one) for one in fields]
    if mode == "eval" and named:
        checkpoint_folder.check_there(folder)
    processes.check_same("the config", lambda: [config, mode, checkpoint, *set_here])
    with workdir.locked(folder):
        processes.check_shared(folder)
        runs: list[Any] = [(config, folder)]
        if config is not None and config["twin"] and named:
            twin = files.own_folder(os.path.join(folder, "twin"))
            runs.insert(0, (twin_of(config), os.fspath(twin)))
        mesh = parallel.make_mesh()
        training = runs if config is not None and mode != "eval" else []
        if len(training) > 1:  # the second's mistakes before the first
            images = splits.open_split(training[0][0], "train")
            for one, _ in training:
                check_data(one, create_model(one), images)
        # All training before any evaluation, where SIGTERM ends processes at once.
        following = [one for one, _ in training[1:]] + [None]
        for (one, place), coming in zip(training, following, strict=False):
            extend = one["train"]["extend"]
            given: Any = {"extend": extend, "defaults": base().to_dict()}
            if processes.is_lead():
                workdir.check_config(place, one, **given)
            # What cannot start leaves the config that is there as it is.
            write = functools.partial(
                workdir.write_config, place, one, command, to_train=True, **given
            )
            with _timed(spent, f"training {one['name']}"), compiling(coming, mesh):
                loop.train(one, place, mesh, on_start=write)
        for one, place in runs if mode != "train" else ():
            with _timed(spent, f"evaluation {one['name'] if one else ''}".strip()):
                named_here = place, checkpoint, mesh, command, attacks, fields
                evaluate_checkpoint(one, *named_here)
    return spent


@contextlib.contextmanager
def _timed(spent: dict[str, float], part: str) -> Iterator[None]:
    """Notes the seconds of a part."""
    begin = time.monotonic()
    yield
    spent[part] = time.monotonic() - begin
