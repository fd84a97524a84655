"""What an evaluation leaves on disk."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from jaxrobust.evaluation import passes, step
from jaxrobust.evaluation.setting import Setting
from jaxrobust.results import schema
from jaxrobust.runtime import files


def predictions(done: passes.Passes) -> dict[str, Any]:
    """Returns per-example arrays [N] for evaluation.npz.

    `robust_LABEL` says which images an attack leaves correct, `robust_LABEL/STAGE`
    which are after each stage of an ensemble, `distance_LABEL` how far an attack
    without a radius went.
    """
    setting, runs = done.setting, done.runs
    arrays: dict[str, Any] = {
        "indices": setting.indices,
        "labels": setting.labels,
        "class_names": np.asarray(setting.dataset.class_names),
        "clean_loss": runs["clean"].loss,
        "robust": passes.worst_case(done.entries, runs),
    }
    for entry in done.entries:
        if entry.eps is None:
            arrays[f"distance_{entry.label}"] = runs[entry.label].distance[entry.norm]
    for name, run in runs.items():
        arrays[f"predicted_{name}"] = run.predicted
        if name != "clean":
            arrays[f"robust_{name}"] = run.correct
            stages = run.stages.items()
            arrays |= {f"robust_{name}/{stage}": robust for stage, robust in stages}
    return arrays


def grid(
    done: passes.Passes, attacks: Sequence[schema.Attack], fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns sample images under the strongest attack, for the report."""
    setting, runs = done.setting, done.runs
    rows = passes.shown(len(setting.indices), fields)
    # What may change any image into any other shows little beside one with a radius.
    attacks = [a for a in attacks if a.eps is not None] or attacks
    if not attacks or not len(rows):
        return {}
    strongest = min(attacks, key=lambda a: (a.robust_accuracy, -(a.loss or 0))).label
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


def write_adversarial(
    workdir: epath.PathLike, setting: Setting, runs: Mapping[str, step.EvalRun]
) -> None:
    """Writes every attacked image by attack; see `compact` for the dtype."""
    images = {f"x_adv_{k}": compact(r.x_adv) for k, r in runs.items() if k != "clean"}
    arrays = {"indices": setting.indices, "labels": setting.labels, **images}
    files.write_npz(epath.Path(workdir) / "adversarial.npz", arrays, compress=False)


def compact(images: Float[np.ndarray, "N H W C"]) -> np.ndarray:
    """Returns images as float16 where that loses nothing, else as float32.

    That is so where every value is an 8-bit level, k / 255 in float32: half precision
    tells neighbouring levels apart, and `rint(255 x) / 255` restores each to the bit.
    """
    images = np.asarray(images, np.float32)
    half = images.astype(np.float16)
    levels = np.rint(half.astype(np.float32) * 255)
    exact = np.array_equal(levels / np.float32(255), images)
    return half if exact else images
