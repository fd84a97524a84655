"""Results in the format of RobustBench's leaderboard (`model_info/*.json` there)."""

from collections.abc import Mapping
from typing import Any

from jaxrobust._checks import nearest_match
from jaxrobust.attacks.registry import AUTOATTACK
from jaxrobust.results.analysis_schema import CorruptionSet
from jaxrobust.results.schema import Results

ABOUT: Mapping[str, str | int | bool] = {
    "link": "",
    "name": "",
    "authors": "",
    "additional_data": False,
    "number_forward_passes": 1,
    "venue": "",
    "architecture": "",
    "reported": "",
    "footnote": "",
}


def read_about(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a user says about the network, completed from `ABOUT`.

    Text is read where a field is a bool or a number (`'true'`, `'1'`).

    Raises:
      ValueError: for another name (with the nearest) or a value that is no such thing.
    """
    about: dict[str, Any] = dict(ABOUT)
    for name, value in fields.items():
        if name not in ABOUT:
            raise ValueError(
                f"RobustBench's format has no field {name!r} to fill. "
                f"{nearest_match(name, ABOUT)}"
            )
        about[name] = _read(name, value)
    return about


def _read(name: str, value: Any) -> Any:
    kind = type(ABOUT[name])
    if kind is bool and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if kind is int and str(value).isdigit() and int(value) > 0:
        return int(value)
    if kind is str:
        return str(value)
    wanted = "true or false" if kind is bool else "a whole number above 0"
    raise ValueError(f"`{name}` must be {wanted}, got {value!r}.")


def entry(results: Results, config: Mapping[str, Any]) -> dict[str, str | int | bool]:
    """Returns the entry of one network.

    Accuracies are in percent, as text. `autoattack_acc` is there only if the standard
    version of AutoAttack ran; `footnote` says so otherwise, and what the numbers are
    about where that is not the whole test set. `corruptions_acc` and `corruptions_mce`
    (of 3DCC with `_3d`) are of a published set without a corruption missing.
    `unreliable` is whether there is a severe flag.
    """
    about = read_about(config["eval"].get("robustbench", {}))
    model = config.get("model", {}).get("name", "")
    attacks = results.attacks
    kinds = (AUTOATTACK, "standard")
    standard = [one for one in attacks if (one.name, one.version) == kinds]
    robust = [_percent(one.robust_accuracy) for one in standard]
    # Attacks for the smallest perturbation have no radius.
    radii = [one.written for one in standard or attacks if one.eps is not None]
    assert results.data is not None
    notes = [about["footnote"], *_notes(results, standard=bool(standard))]
    return {
        "link": about["link"],
        "name": about["name"] or config.get("name", "") or model,
        "authors": about["authors"],
        "additional_data": about["additional_data"],
        "number_forward_passes": about["number_forward_passes"],
        "dataset": results.data.name,
        "venue": about["venue"],
        "architecture": about["architecture"] or model,
        "eps": radii[0] if radii else "",
        "clean_acc": _percent(results.clean.accuracy),
        "reported": about["reported"],
        **({"autoattack_acc": robust[0]} if robust else {}),
        **_corrupted(results.corruption_set),
        "footnote": " ".join(note for note in notes if note),
        "unreliable": any(flag.severe for flag in results.flags),
    }


def _corrupted(found: CorruptionSet | None) -> dict[str, str]:
    """Accuracy and mCE on a published set, where no corruption of it is missing."""
    if found is None or found.benchmark is None or found.missing:
        return {}
    end = "_3d" if found.benchmark == "3DCC" else ""
    fields = {f"corruptions_acc{end}": _percent(found.mean_accuracy)}
    if found.mce is not None:
        fields[f"corruptions_mce{end}"] = _percent(found.mce)
    return fields


def _notes(results: Results, *, standard: bool) -> list[str]:
    notes, found = [], results.data
    if not standard:
        worst = results.worst_case
        robust = "no attack in a ball ran, so nothing is said of robustness in one."
        if worst.attacks:
            ran = ", ".join(worst.attacks)
            robust = f"{_percent(worst.robust_accuracy)} % are robust under {ran}."
        notes.append(
            f"Standard AutoAttack did not run, so there is no autoattack_acc; {robust}"
        )
    for other in results.other_threats or ():
        left = _percent(other.robust_accuracy)
        notes.append(f"{left} % are robust under attacks of the threat {other.threat}.")
    if found and found.examples is not None and found.examples < found.of:
        notes.append(f"On {found.examples} of {found.of} test images.")
    if (corrupted := results.corruption_set) and _corrupted(corrupted):
        part = f"On {corrupted.n} of {corrupted.of} images under each corruption."
        notes += [part] * (corrupted.n < corrupted.of)
    if results.flags:
        names = sorted({flag.name for flag in results.flags})
        notes.append(f"Warning signs: {', '.join(names)}.")
    return notes


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
