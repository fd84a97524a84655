"""Signs that a robust accuracy is not what it seems, each with its numbers.

Athalye et al. 2018 (arXiv 1802.00420, section 3.1) and Carlini et al. 2019 (arXiv
1902.06705, section 3) list the symptoms of masked gradients.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrobust import losses, models
from jaxrobust.evaluation import statistics, step
from jaxrobust.evaluation.setting import Setting

Flag = dict[str, Any]
ITERATIVE = ("pgd", "bim", "mim", "apgd", "apgd_targeted", "fab")
WEAKER = {
    "fgsm": "a single step",
    "uniform_noise": "random noise",
    "ball": "random noise",
}
MARGIN = 0.01  # shares closer than this are the same
ZERO_SHARE = 0.05


def _flag(name: str, message: str, **values: float) -> Flag:
    return {"name": name, "message": message, "values": values}


def make_gradient_step(
    model: nn.Module, *, precision: str = "highest"
) -> step.EvalStep:
    """Builds a step that looks at the input gradient of the cross-entropy.

    Returns:
      A step as `make_eval_step` makes, with `logits` [B, K], `zero` bool [B] (every
      entry of the gradient is 0) and `non_finite` bool [B].
    """

    @jax.jit
    def run(variables, images, labels, keys) -> dict[str, Array]:
        with jax.default_matmul_precision(precision):
            logits_fn = models.logits_fn(model, variables)

            def loss(x):
                logits = logits_fn(x)
                return losses.cross_entropy(logits, labels).sum(), logits

            grad, logits = jax.grad(loss, has_aux=True)(step.to_float(images))
        flat = grad.reshape(len(grad), -1)
        return {
            "logits": logits.astype(jnp.float32),
            "zero": (flat == 0).all(-1),
            "non_finite": ~jnp.isfinite(flat).all(-1),
        }

    return run


def gradients(setting: Setting) -> dict[str, float]:
    """Returns the shares of images whose input gradient is all zero or not finite."""
    run_step = make_gradient_step(setting.model, precision=setting.precision)
    zero, bad = [], []
    for rows, out in setting.iterate(run_step, "gradients"):
        count = rows.stop - rows.start
        zero.append(np.asarray(jax.device_get(out["zero"]))[:count])
        bad.append(np.asarray(jax.device_get(out["non_finite"]))[:count])
    return {
        "zero_gradient_share": float(np.concatenate(zero).mean()),
        "non_finite_gradient_share": float(np.concatenate(bad).mean()),
        "n": len(setting.indices),
    }


def from_gradients(found: Mapping[str, float]) -> list[Flag]:
    """Flags gradients that no attack can follow."""
    flags = []
    zero, bad = found["zero_gradient_share"], found["non_finite_gradient_share"]
    if zero > ZERO_SHARE:
        message = (
            f"The input gradient is exactly zero for {zero:.1%} of the images: "
            "gradient attacks cannot move them, so their robust accuracy says little."
        )
        flags.append(_flag("zero_gradients", message, share=zero))
    if bad > 0:
        message = f"The input gradient is not finite for {bad:.1%} of the images."
        flags.append(_flag("non_finite_gradients", message, share=bad))
    return flags


def from_logits(logits: Float[np.ndarray, "N K"]) -> list[Flag]:
    """Flags outputs that look like probabilities."""
    if logits.min() < 0 or np.abs(logits.sum(-1) - 1).max() > 1e-3:
        return []
    message = (
        "The network returns probabilities where logits are expected: losses are "
        "computed on a softmax of a softmax, which hides gradients."
    )
    return [_flag("probabilities_as_logits", message)]


def from_attacks(attacks: Sequence[Mapping[str, Any]]) -> list[Flag]:
    """Flags weak attacks that beat iterative ones under the same threat."""
    flags = []
    for weak in attacks:
        if weak["name"] not in WEAKER:
            continue
        strong = [
            other["robust_accuracy"]
            for other in attacks
            if other["name"] in ITERATIVE
            and (other["norm"], other["eps"]) == (weak["norm"], weak["eps"])
        ]
        if strong and weak["robust_accuracy"] < min(strong) - MARGIN:
            message = (
                f"{weak['label']} ({WEAKER[weak['name']]}) leaves "
                f"{weak['robust_accuracy']:.1%}, the iterative attacks "
                f"{min(strong):.1%}: they miss what is there (masked gradients?)."
            )
            name = (
                "single_step_beats_iterative"
                if weak["name"] == "fgsm"
                else "black_box_beats_white_box"
            )
            values = {"weak": weak["robust_accuracy"], "iterative": min(strong)}
            flags.append(_flag(name, message, **values))
    return flags


def from_curve(curve: Mapping[str, Any], num_classes: int, size: int) -> list[Flag]:
    """Flags a curve that rises, or stays above chance where no network can be.

    Args:
      curve: of `curve.describe`.
      num_classes: K; chance is 1 / K.
      size: numbers per image. A radius that reaches mid-grey from every image (.5 in
        each number) makes all images attackable into one.
    """
    flags, accuracy = [], curve["robust_accuracy"]
    order = np.argsort(curve["eps"])
    rises = np.diff(np.asarray(accuracy)[order])
    if len(rises) and rises.max() > MARGIN:
        message = f"Robust accuracy rises by {rises.max():.1%} with a larger radius."
        flags.append(_flag("curve_rises", message, rise=float(rises.max())))
    grey = {"linf": 0.5, "l2": 0.5 * size**0.5, "l1": 0.5 * size}[curve["norm"]]
    last = int(order[-1])
    hits = round(accuracy[last] * curve["n"])
    low = statistics.wilson_interval(hits, curve["n"])[0]
    if curve["eps"][last] >= grey and low > 1 / num_classes:
        message = (
            f"At eps {curve['eps_text'][last]} every image can be turned into the same "
            f"grey one, yet {accuracy[last]:.1%} resist "
            f"(chance {1 / num_classes:.1%}): "
            "the attack is blind here, and so may it be at smaller radii."
        )
        values = {"accuracy": accuracy[last], "chance": 1 / num_classes}
        flags.append(_flag("above_chance_at_largest_eps", message, **values))
    return flags
