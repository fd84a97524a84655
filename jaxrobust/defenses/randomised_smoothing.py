"""Training for randomised smoothing: on noise, or on attacks on the smoothed network.

Cohen et al. 2019 (arXiv 1902.02918), Salman et al. 2019 (arXiv 1906.04584) and Zhai et
al. 2020 (arXiv 2001.02378).
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust import losses
from jaxrobust._checks import FINITE, Range, check_count, check_number
from jaxrobust.array_types import Images, Key, Labels, Logits, LogitsFn, PerExample
from jaxrobust.defenses import base

_SIGMA = Range(0, 1e6, above=True)
# Stream of an example's key; attacks take the key itself.
_NOISE = 3


def gaussian(
    model: nn.Module, *, sigma: float = 0.25, noise_draws: int = 1
) -> base.Defense:
    """Cross-entropy on images with Gaussian noise (Cohen et al. 2019, section 3.3).

    The noise of standard deviation `sigma`, in units of the images, is that of
    `certify.smooth`: nothing is clipped to the box. `noise_draws` copies of each image.
    """
    _check(sigma, noise_draws)
    return _trained(model, "image", sigma, noise_draws)


def smooth_adv(
    model: nn.Module,
    *,
    attack: Mapping[str, Any],
    attack_bn: str = "train",
    attack_warmup_steps: int = 0,
    sigma: float = 0.25,
    noise_draws: int = 2,
) -> base.Defense:
    """Cross-entropy on noisy copies of attacks on the smoothed network.

    SmoothAdv-PGD, equation 6 of Salman et al. 2019: PGD of `attack` (in L2 there)
    maximises -log of the mean probability over `noise_draws` draws of noise, and the
    network is trained at the point found, with the same draws.
    """
    _check(sigma, noise_draws)

    def smoothed(attacked: LogitsFn, batch: base.Batch) -> LogitsFn:
        noise = _noise(batch, sigma, noise_draws)

        def mean(x: Images) -> Logits:
            copies = (x[None] + noise).reshape(-1, *x.shape[1:])
            logits = attacked(copies).reshape(*noise.shape[:2], -1)
            return jax.nn.logsumexp(jax.nn.log_softmax(logits), 0)

        return mean

    prepare = base.attacker(
        model, "pgd", attack, attack_bn, attack_warmup_steps, seen=smoothed
    )
    return _trained(model, "attacked", sigma, noise_draws, prepare)


def macer(
    model: nn.Module,
    *,
    sigma: float = 0.25,
    noise_draws: int = 16,
    radius_weight: float = 12.0,
    hinge: float = 8.0,
    inverse_temperature: float = 16.0,
) -> base.Defense:
    """Cross-entropy and the certified radius of noisy copies, see `losses.macer`.

    Zhai et al. 2020 (arXiv 2001.02378), without an attack.
    """
    _check(sigma, noise_draws)
    for name, value in (("radius_weight", radius_weight), ("hinge", hinge)):
        check_number(name, value, FINITE)
    check_number("inverse_temperature", inverse_temperature, _SIGMA)

    def loss(logits: Float[Array, "D B K"], y: Labels) -> PerExample:
        return losses.macer(logits, y, sigma, radius_weight, hinge, inverse_temperature)

    return _trained(model, "image", sigma, noise_draws, loss=loss)


def _check(sigma: float, noise_draws: int) -> None:
    check_number("sigma", sigma, _SIGMA)
    check_count("noise_draws", noise_draws, 1)


def _noise(batch: base.Batch, sigma: float, draws: int) -> Float[Array, "D B H W C"]:
    """Draws the noise of a batch, the same at each call."""
    x = batch["image"]

    def row(key: Key) -> Float[Array, "D H W C"]:
        own = jax.random.fold_in(key, _NOISE)
        return sigma * jax.random.normal(own, (draws, *x.shape[1:]), x.dtype)

    return jax.vmap(row, out_axes=1)(batch["key"])


def _trained(
    model: nn.Module,
    seen: str,
    sigma: float,
    draws: int,
    prepare: base.Prepare | None = None,
    loss: Callable[[Float[Array, "D B K"], Labels], PerExample] | None = None,
) -> base.Defense:
    """Returns the objective on noisy copies of the batch's images of a name.

    It is cross-entropy, or a `loss` of all copies of an image.
    """

    def of_phase(
        params: base.Params,
        state: base.ModelState,
        batch: base.Batch,
        key: Key,
        step: Array,
    ) -> base.PhaseResult:
        del step
        x = batch[seen]
        noisy = (x[None] + _noise(batch, sigma, draws)).reshape(-1, *x.shape[1:])
        y = jnp.tile(batch["label"], draws)
        out, state = base.forward(model, params, state, noisy, key)
        metrics = {base.ACCURACIES[seen]: base.accuracy(out.logits, y)}
        if loss is None:
            each = losses.cross_entropy(out.logits, y)
        else:
            each = loss(out.logits.reshape(draws, len(x), -1), batch["label"])
        return each.mean(), (state, metrics)

    return base.Defense((base.Phase(of_phase, prepare),))
