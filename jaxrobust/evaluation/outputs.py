"""What an evaluation leaves on disk."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxrobust.evaluation import files, passes, step, suite
from jaxrobust.evaluation.setting import Setting


def predictions(
    setting: Setting,
    entries: Sequence[suite.Entry],
    runs: Mapping[str, step.EvalRun],
) -> dict[str, Any]:
    """Returns per-example arrays [N] for evaluation.npz."""
    arrays: dict[str, Any] = {
        "indices": setting.indices,
        "labels": setting.labels,
        "class_names": np.asarray(setting.dataset.class_names),
        "clean_loss": runs["clean"].loss,
        "robust": passes.worst_case(entries, runs),
    }
    for entry in entries:
        if entry.eps is None:
            arrays[f"distance_{entry.label}"] = runs[entry.label].distance[entry.norm]
    return arrays | {f"predicted_{name}": run.predicted for name, run in runs.items()}


def grid(
    setting: Setting,
    entries: Sequence[suite.Entry],
    results: Mapping[str, Any],
    runs: Mapping[str, step.EvalRun],
    fields: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns sample images under the strongest attack, for the report."""
    rows = passes.shown(len(setting.indices), fields)
    # What may change any image into any other shows little beside one with a radius.
    attacks = [a for a in results["attacks"] if a["eps"] is not None]
    attacks = attacks or results["attacks"]
    if not attacks or not len(rows):
        return {}
    strongest = min(attacks, key=lambda a: (a["robust_accuracy"], -a["loss"]))["label"]
    x_adv = runs[strongest].x_adv
    if fields["save_adversarial"]:
        x_adv = x_adv[rows]
    return {
        "grid_attack": np.asarray(strongest),
        "grid_images": setting.dataset.images[setting.indices[rows]],
        "grid_x_adv": x_adv,
        "grid_labels": setting.labels[rows],
        "grid_predicted": runs["clean"].predicted[rows],
        "grid_predicted_adv": runs[strongest].predicted[rows],
    }


def write(
    workdir: epath.PathLike, results: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Writes evaluation.npz and then results.json."""
    folder = epath.Path(workdir)
    files.write_npz(folder / "evaluation.npz", arrays, compress=True)
    files.write_json(folder / "results.json", results)


def write_adversarial(
    workdir: epath.PathLike, setting: Setting, runs: Mapping[str, step.EvalRun]
) -> None:
    """Writes every attacked image, float32 in the bounds, by attack."""
    images = {f"x_adv_{k}": r.x_adv for k, r in runs.items() if k != "clean"}
    arrays = {"indices": setting.indices, "labels": setting.labels, **images}
    files.write_npz(epath.Path(workdir) / "adversarial.npz", arrays, compress=False)
