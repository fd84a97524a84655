"""What is proved: robust accuracy from below, where attacks give it from above."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from jaxrobust import certify, models, threat
from jaxrobust.array_types import Norm
from jaxrobust.certify import smoothing
from jaxrobust.evaluation import passes, statistics, step
from jaxrobust.evaluation.analyses.base import Context, Fields, Found, Runs
from jaxrobust.evaluation.entries import Entry
from jaxrobust.evaluation.rules import choice, number, whole
from jaxrobust.evaluation.setting import Setting, fetched, picked
from jaxrobust.evaluation.text import parse_radius
from jaxrobust.results import analysis_schema as schema
from jaxrobust.results import npz

FIELD = "certify"
DEFAULTS: Mapping[str, Any] = {
    "enabled": False,
    "method": "crown",  # empty leaves it out
    "eps": "",  # empty: the radius of the first attack that has one in the norm
    "norm": "",  # empty: that of the first attack
    "examples": 100,
    "batch_size": 8,  # images whose linear forms are in memory together
    "sigma": 0.0,  # of randomised smoothing; 0 leaves it out
    "n0": 100,
    "n": 1000,
    "alpha": 0.001,
}
RULES = {
    "method": choice(("", *certify.METHODS)),
    "norm": choice(("", *threat.NORMS)),
    "batch_size": whole(1),
    "sigma": number(0, 1e6),
    "n0": whole(1),
    "n": whole(1),
    "alpha": number(0, 0.5, above=True),
}
DIFFERENTIATES = True
QUICK = {"examples": 8, "n": 100, "method": "crown_ibp"}
ON_CPU = {"examples": 50}
# Radii of the curve of randomised smoothing, in units of sigma.
_SHARES = np.linspace(0, 4, 41)


def check(fields: Fields) -> None:
    """Reads the radius; refuses to be asked for nothing."""
    if not (fields["method"] or fields["sigma"]):
        raise ValueError(
            "`eval.certify.enabled` asks for proofs, but `eval.certify.method` is empty"
            " and `eval.certify.sigma` 0: set one of them."
        )
    if fields["eps"] != "":
        parse_radius(fields["eps"], "eval.certify.eps")


def check_attacks(fields: Fields, entries: Sequence[Entry]) -> None:
    """Refuses to prove something at a radius that nobody names."""
    if fields["method"]:
        _ball(fields, entries)


class ProvedBall(NamedTuple):
    """What is proved: its radius, as it is written, too."""

    eps: float
    text: str
    norm: Norm


def _ball(fields: Fields, entries: Sequence[Entry]) -> ProvedBall:
    """Returns the ball of the config, or of the first attack that has one such.

    Raises:
      ValueError: where neither has a radius.
    """
    norm, eps = fields["norm"], fields["eps"]
    # A sparse ball has no proof here.
    balls = [
        ProvedBall(one.eps, one.written, one.norm)
        for one in entries
        if one.norm in threat.NORMS and one.eps is not None
    ]
    if eps != "":
        norm = norm or (balls[0].norm if balls else "linf")
        return ProvedBall(parse_radius(eps, "eval.certify.eps"), str(eps), norm)
    for ball in balls:
        if norm in ("", ball.norm):
            return ball
    raise ValueError(
        f"no attack has a radius in {norm or 'linf, l2 or l1'} that could be proved: "
        "set --config.eval.certify.eps, or --config.eval.certify.method= to leave "
        "proofs out."
    )


def run(context: Context, runs: Runs) -> Found:
    """Proves what it can of some examples; a network without rules says so."""
    fields, entries = context.fields, context.entries
    rows = picked(len(context.setting.indices), fields["examples"])
    part = context.setting.part(fields["examples"])
    results, arrays = {}, {}
    if fields["method"]:
        eps, text, norm = _ball(fields, entries)
        same = [one for one in entries if (one.eps, one.norm) == (eps, norm)]
        right = passes.worst_case(same, runs)[rows]
        found, margins = _proved(part, fields, eps, norm, right, attacked=bool(same))
        results["certified"] = schema.Certified(eps_text=text, **found)
        if margins is not None:
            made = npz.CertifiedArrays(
                certified_indices=part.indices, certified_margins=margins
            )
            arrays |= made.named()
    if fields["sigma"]:
        found, own = _smoothed(part, fields)
        results["smoothed"], arrays = found, arrays | own
    return Found(results, arrays)


def _proved(
    part: Setting,
    fields: Fields,
    eps: float,
    norm: Norm,
    right: Bool[np.ndarray, "n"],
    *,
    attacked: bool,
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Returns what results.json says of proofs, and the margins [n].

    `right` is what stays right under the attacks of the same ball, if any `attacked`.
    """
    begin = time.monotonic()

    def bounded(variables, x, labels, keys) -> dict[str, Any]:
        del keys
        logits_fn = models.logits_fn(part.model, variables)
        found = certify.margin(
            logits_fn, x, labels, eps=eps, norm=norm, method=fields["method"]
        )
        return {"logits": step.float_logits(logits_fn(x)), "margins": found}

    about = {"eps": eps, "norm": norm, "method": fields["method"], "n": len(right)}
    try:
        margins = _over(part, fields, bounded, "margins", "certificates")
    except certify.Unsupported as error:
        return {**about, "unsupported": str(error)}, None
    proved = margins > 0
    # Beside an image that an attack has broken a proof is wrong, and no proof.
    contradicted = int((proved & ~right).sum()) if attacked else 0
    share = statistics.share(proved, "proved")
    if attacked:
        share["unbroken"] = float(right.mean())
    seconds = time.monotonic() - begin
    more = {"contradicted": contradicted, "seconds": seconds}
    return {**about, **share, **more}, margins


def _over(part: Setting, fields: Fields, body: Any, name: str, label: str) -> Any:
    """Runs a step over examples, few at a time; returns one of its outputs."""
    copies = max(1, part.batch_size // fields["batch_size"])
    run_step = step.jitted(body, part.precision)
    found = [
        fetched(out[name], rows)
        for rows, out in part.iterate(run_step, label, copies=copies)
    ]
    return np.concatenate(found)


def _smoothed(
    part: Setting, fields: Fields
) -> tuple[schema.SmoothedAccuracy, dict[str, np.ndarray]]:
    """Certifies by randomised smoothing; accuracy over the radius."""
    begin = time.monotonic()
    sigma, n0, n = fields["sigma"], fields["n0"], fields["n"]

    def counted(variables, x, labels, keys) -> dict[str, Any]:
        del labels
        logits_fn = models.logits_fn(part.model, variables)
        found = smoothing.both_counts(logits_fn, x, keys, sigma, n0, n, 32)
        return {"logits": step.float_logits(logits_fn(x)), "counts": found}

    counts = _over(part, fields, counted, "counts", "smoothing")
    found = smoothing.certified(counts[:, 0], counts[:, 1], sigma, fields["alpha"])
    right = found.classes == part.labels
    radii = sigma * _SHARES
    results = schema.SmoothedAccuracy(
        sigma=sigma,
        draws=n,
        alpha=fields["alpha"],
        abstained=float((found.classes == certify.ABSTAINED).mean()),
        radii=radii.tolist(),
        certified_accuracy=[float((right & (found.radii >= r)).mean()) for r in radii],
        n=len(right),
        seconds=time.monotonic() - begin,
    )
    arrays = npz.SmoothedArrays(
        smoothed_indices=part.indices,
        smoothed_classes=found.classes,
        smoothed_radii=found.radii,
    )
    return results, arrays.named()
