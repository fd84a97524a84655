"""Momentum on gradients of changed images, or smoothed ones, that fool others too."""

from typing import Unpack

from jaxrobust.array_types import Images, Labels, LogitsFn, Scalar
from jaxrobust.attacks._options import TransferOptions, shares
from jaxrobust.attacks._transferable import PLAIN, ascend


@shares(TransferOptions, **PLAIN | {"resize": 0.9})
def dim(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    **options: Unpack[TransferOptions],
) -> Images:
    """Diverse inputs, M-DI2-FGSM (Xie et al. 2019, section 3.3).

    `mim` on gradients of images that shrink at random, in a `share` of the steps, and
    lie at a random place on black. With `kernel='gaussian'` it is TI-DIM.

    Reference:
      Xie et al., Improving transferability of adversarial examples with input
      diversity, CVPR 2019, arXiv 1803.06978. Each image has draws of its own
      (torchattacks: one for the batch), and may touch the lower and right edge, which
      is left out there; the image never grows, since the model has one size of input.
      torchattacks has `decay=0`.
    """
    return ascend("dim", logits_fn, x, y, eps, step_size, steps, **options)


@shares(TransferOptions, **PLAIN | {"kernel": "gaussian"})
def tim(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    **options: Unpack[TransferOptions],
) -> Images:
    """Translation-invariant attack, TI-MIM (Dong et al. 2019, section 3.3).

    `mim` on gradients that are convolved with a kernel, which is about the mean
    gradient over shifted images.

    Reference:
      Dong et al., Evading defenses to transferable adversarial examples by
      translation-invariant attacks, CVPR 2019, arXiv 1904.02884, equation 7.
      torchattacks' TIFGSM has `decay=0` and diverse inputs: here `resize=0.9`.
    """
    return ascend("tim", logits_fn, x, y, eps, step_size, steps, **options)


@shares(TransferOptions, **PLAIN | {"scales": 5})
def sim(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    **options: Unpack[TransferOptions],
) -> Images:
    """Scale-invariant method, SI-MIM; SI-NI-FGSM with `nesterov=True`.

    `mim` on the mean gradient of `scales` copies of the image, over 1, 2, 4, 8 ...

    Reference:
      Lin et al., Nesterov accelerated gradient and scale invariance for adversarial
      attacks, ICLR 2020, arXiv 1908.06281, section 3.2.
    """
    return ascend("sim", logits_fn, x, y, eps, step_size, steps, **options)


@shares(TransferOptions, **PLAIN | {"scales": 5, "mixed": 3})
def admix(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    **options: Unpack[TransferOptions],
) -> Images:
    """Admix (Wang et al. 2021, algorithm 1).

    `mim` on the mean gradient of copies to which `weight` times another image was
    added, each at all `scales`: `scales * mixed` gradients a step. No row of a batch
    meets another: give the images to mix with as `others`. Without them, other than in
    the paper, an image is mixed with itself, mirrored and rolled at random.

    Reference:
      Wang et al., Admix: Enhancing the transferability of adversarial attacks, ICCV
      2021, arXiv 2102.00436; as in the authors' code, any class may be mixed in.
    """
    return ascend("admix", logits_fn, x, y, eps, step_size, steps, **options)
