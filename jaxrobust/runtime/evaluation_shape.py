"""What the report and the comparison read of results.json: every key, and its kind.

Whoever reads another key there adds it here; `tests/report/test_report_foreign.py`
takes each away and puts something else in its place.
"""

from jaxrobust.runtime import shape
from jaxrobust.runtime.shape import (
    COUNT,
    MAYBE,
    MAYBE_SHARE,
    NUMBER,
    OBJECT,
    PAIR,
    RADIUS,
    SHARE,
    SWITCH,
    TEXT,
    Columns,
    Each,
    few,
)

NORMS = ("linf", "l2", "l1")
_NORM = shape.one_of(NORMS)
_CLEAN = {"accuracy": SHARE, "ci95": PAIR}
_ROBUST = {"robust_accuracy": SHARE, "ci95": PAIR}
_STAGE = {
    "name": TEXT,
    "robust_accuracy": SHARE,
    "seconds": NUMBER,
    "gradients": COUNT,
    "forwards": COUNT,
}
_THREAT = {"name": TEXT, "norm": _NORM, "eps": RADIUS, "eps_text?": TEXT}
_ATTACK = {
    **_THREAT,
    **_ROBUST,
    "label": TEXT,
    "n": COUNT,
    "seconds?": NUMBER,
    "version?": TEXT,
    "steps?": COUNT,
    "attack?": TEXT,
    "source?": TEXT,
    "why?": TEXT,
    "median_distance?": MAYBE,
    "accuracy_within?": [{"eps_text": TEXT, **_ROBUST}],
    "mean_perturbation?": dict.fromkeys(NORMS, NUMBER),
    "stages?": [_STAGE],
    "replaced?": [TEXT],
}
_FLAG = {"name": TEXT, "message": TEXT, "severe?": SWITCH}
_CLASS = {"class": TEXT, "n": COUNT, "accuracy": SHARE, "robust_accuracy": SHARE}
_CURVE = Columns(
    {
        "eps": few(NUMBER),
        "eps_text": few(TEXT),
        "robust_accuracy": few(SHARE),
        "ci95": few(PAIR),
        "norm": _NORM,
        "n": COUNT,
        "steps": COUNT,
    },
    ("eps", "eps_text", "robust_accuracy", "ci95"),
)
_GROWTH = Columns(
    {"stages": few(TEXT), "l1": few(MAYBE), "l2": few(MAYBE), "n": COUNT},
    ("stages", "l1", "l2"),
)
_DIAGNOSTICS = {
    "n": COUNT,
    "steps": COUNT,
    "restarts": COUNT,
    "queries": COUNT,
    "accuracy": Each(MAYBE_SHARE),
    "gradients": {
        "zero_gradient_share": MAYBE_SHARE,
        "loss_rises_share": MAYBE_SHARE,
        "explained?": MAYBE,
        "explained_at?": Each(MAYBE),
    },
    "logits": {"no_loss_share": MAYBE_SHARE},
    "calls": {"same_batch": MAYBE, "other_batch": MAYBE},
}
_RANKS = Columns(
    {
        "eps": few(NUMBER),
        "eps_text": few(TEXT),
        "ranks": few(COUNT),
        "attacks": [
            Columns(
                {
                    "name": TEXT,
                    "newly_successful": few(COUNT),
                    "share": shape.rows(MAYBE_SHARE),
                },
                ("newly_successful", "share"),
            )
        ],
        "n": COUNT,
        "n_correct": COUNT,
    },
    ("eps", "eps_text"),
)
_GAP = {"all": MAYBE, "correct": MAYBE}
_SIDE = {"nearest_is_own": SHARE}
_ERRORS = ("attacked", "restored_clean", "restored_attacked")
_ANALYSES = {
    "class_ranks?": _RANKS,
    "probability_gap?": {
        "clean": _GAP,
        "attacks": [{"label": TEXT, **_GAP}],
        "n": COUNT,
        "n_correct": COUNT,
    },
    "features?": {"attack": TEXT},
    "prototypes?": {
        "attack": TEXT,
        "n": COUNT,
        "layers": Each({"clean": _SIDE, "attacked": _SIDE}),
    },
    "restoration?": {"attack": TEXT, "n": COUNT, "mse": dict.fromkeys(_ERRORS, MAYBE)},
}
_CORRUPTIONS = {
    "clean": _CLEAN,
    "n": COUNT,
    "note": TEXT,
    "rows": [{"name": TEXT, "severity": COUNT, "accuracy": SHARE}],
    "by_name": [{"name": TEXT, **_CLEAN}],
    "by_severity": [{"severity": COUNT, "accuracy": SHARE}],
    "mean_accuracy": SHARE,
    "ci95": PAIR,
    "worst_case?": _ROBUST,
}
_PAIRED = {
    "difference": NUMBER,
    "ci95": PAIR,
    "only_a": COUNT,
    "only_b": COUNT,
    "p_value": NUMBER,
}
REPORTED = {
    "clean": {**_CLEAN, "n": COUNT, "seconds?": NUMBER},
    "attacks": [_ATTACK],
    "worst_case": {**_ROBUST, "n": COUNT},
    "flags": [_FLAG],
    "per_class?": [_CLASS],
    "curve?": _CURVE,
    "growth?": _GROWTH,
    "diagnostics?": _DIAGNOSTICS,
    "analyses?": _ANALYSES,
    "corruptions?": _CORRUPTIONS,
    "comparison?": {
        "n": COUNT,
        "same_attacks": SWITCH,
        "clean?": _PAIRED,
        "worst_case?": _PAIRED,
    },
    "stopping?": {"used": COUNT, "of": COUNT, "block": COUNT, "reason": TEXT},
    "pending?": [{"label": TEXT, "name": TEXT, "reason": TEXT}],
    "randomised?": {"draws": COUNT},
    "black_box?": SWITCH,
    "environment?": OBJECT,
    "suite?": TEXT,
}
COMPARED = {"data": {"name": TEXT, "of": COUNT}, "attacks": [_THREAT]}
