"""Results in the format of RobustBench's leaderboard (`model_info/*.json` there)."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxrobust.results.schema import Attack, Data, Results

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
            near = difflib.get_close_matches(name, ABOUT, n=1, cutoff=0.0)
            raise ValueError(
                f"RobustBench's format has no field {name!r} to fill. Did you mean "
                f"{near[0]!r}? Known: {', '.join(ABOUT)}."
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
    about where that is not the whole test set. `unreliable` is whether there is a
    severe flag.
    """
    about = read_about(config["eval"].get("robustbench", {}))
    model = config.get("model", {}).get("name", "")
    attacks = results.attacks
    standard = [
        attack
        for attack in attacks
        if attack.name == "autoattack" and attack.version == "standard"
    ]
    robust = [_percent(attack.robust_accuracy) for attack in standard]
    assert results.data is not None
    notes = [about["footnote"], *_notes(results, results.data, bool(standard))]
    return {
        "link": about["link"],
        "name": about["name"] or config.get("name", "") or model,
        "authors": about["authors"],
        "additional_data": about["additional_data"],
        "number_forward_passes": about["number_forward_passes"],
        "dataset": results.data.name,
        "venue": about["venue"],
        "architecture": about["architecture"] or model,
        "eps": _radius(standard or attacks),
        "clean_acc": _percent(results.clean.accuracy),
        "reported": about["reported"],
        **({"autoattack_acc": robust[0]} if robust else {}),
        "footnote": " ".join(note for note in notes if note),
        "unreliable": any(flag.severe for flag in results.flags),
    }


def _notes(results: Results, found: Data, standard: bool) -> list[str]:
    notes = []
    if not standard:
        worst = results.worst_case
        ran = ", ".join(worst.attacks or ()) or "no attack"
        notes.append(
            "Standard AutoAttack did not run, so there is no autoattack_acc; "
            f"{_percent(worst.robust_accuracy)} % are robust under {ran}."
        )
    if found.examples is not None and found.examples < found.of:
        notes.append(f"On {found.examples} of {found.of} test images.")
    if results.flags:
        names = sorted({flag.name for flag in results.flags})
        notes.append(f"Warning signs: {', '.join(names)}.")
    return notes


def _radius(attacks: Sequence[Attack]) -> str:
    """Returns the first radius; attacks for the smallest perturbation have none."""
    fixed = (a for a in attacks if a.eps is not None)
    return next((a.written for a in fixed), "")


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
