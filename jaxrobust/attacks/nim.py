"""Momentum that looks ahead, and that is tuned by the gradients around the point."""

from typing import Unpack

from jaxrobust.array_types import Images, Labels, LogitsFn, Scalar
from jaxrobust.attacks._options import TransferOptions, shares
from jaxrobust.attacks._transferable import PLAIN, ascend


@shares(TransferOptions, **PLAIN | {"nesterov": True})
def nim(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    **options: Unpack[TransferOptions],
) -> Images:
    """Nesterov's iterative method, NI-FGSM (Lin et al. 2020, section 3.1).

    `mim` with the gradient taken where the momentum leads, which may be outside of ball
    and box.

    Reference:
      Lin et al., Nesterov accelerated gradient and scale invariance for adversarial
      attacks, ICLR 2020, arXiv 1908.06281, equations 6 to 8. The momentum is that of
      `mim`, over means, as in the authors' code and torchattacks.
    """
    return ascend("nim", logits_fn, x, y, eps, step_size, steps, **options)


@shares(TransferOptions, **PLAIN | {"neighbours": 5})
def vmim(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    **options: Unpack[TransferOptions],
) -> Images:
    """Variance tuning, VMI-FGSM (Wang and He 2021, algorithm 1).

    `mim` whose gradients have added by how much, in the step before, the mean gradient
    of `neighbours` drawn within `reach` radii differed from that of the point. They may
    lie outside the box.

    Reference:
      Wang and He, Enhancing the transferability of adversarial attacks through variance
      tuning, CVPR 2021, arXiv 2103.15571. In L2, which the paper has not, neighbours
      are drawn from that ball.
    """
    return ascend("vmim", logits_fn, x, y, eps, step_size, steps, **options)


@shares(TransferOptions, **PLAIN | {"nesterov": True, "neighbours": 5})
def vnim(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    **options: Unpack[TransferOptions],
) -> Images:
    """Variance tuning that looks ahead, VNI-FGSM (Wang and He 2021, section 3.3).

    `vmim` with the gradient taken where the momentum leads; the neighbours are those of
    the point itself, as in torchattacks.

    Reference:
      As of `vmim`.
    """
    return ascend("vnim", logits_fn, x, y, eps, step_size, steps, **options)
