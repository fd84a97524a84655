"""Basic iterative method: projected gradient descent from the clean image."""

from jaxrobust.array_types import Bounds, Images, Key, Labels, LogitsFn, Norm, Scalar
from jaxrobust.attacks._objective import Loss
from jaxrobust.attacks.pgd import pgd


def bim(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    key: Key | None = None,
    eps: Scalar,
    step_size: Scalar,
    steps: int,
    norm: Norm = "linf",
    restarts: int = 1,
    loss: Loss = "ce",
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    stochastic: bool = False,
    eot_samples: int = 1,
    quantize: bool = False,
    unroll: int | bool | None = None,
) -> Images:
    """Basic iterative method (Kurakin et al. 2017, section 2.2): `pgd` from `x`.

    Arguments, result and errors are those of `pgd`; a key is needed only for a
    stochastic model.

    Reference:
      Kurakin et al., Adversarial examples in the physical world, ICLR workshop 2017,
      arXiv 1607.02533.
    """
    return pgd(
        logits_fn,
        x,
        y,
        key=key,
        eps=eps,
        step_size=step_size,
        steps=steps,
        norm=norm,
        random_start=False,
        restarts=restarts,
        loss=loss,
        targeted=targeted,
        bounds=bounds,
        stochastic=stochastic,
        eot_samples=eot_samples,
        quantize=quantize,
        unroll=unroll,
    )
