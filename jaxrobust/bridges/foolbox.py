"""Foolbox: our networks for its attacks, its attacks like ours."""

import dataclasses
import warnings
from typing import Any

import jax

from jaxrobust._checks import nearest_match
from jaxrobust.array_types import Bounds, Labels, LogitsFn
from jaxrobust.bridges._host_attack import HostAttack, compiled

try:
    with warnings.catch_warnings():  # it imports names that SciPy is to drop
        warnings.simplefilter("ignore", DeprecationWarning)
        import foolbox
        from eagerpy.tensor.jax import JAXTensor
        from foolbox.models.base import Model
        from foolbox.models.jax import JAXModel
except ImportError as error:
    raise ImportError(f"this needs Foolbox: pip install foolbox ({error}).") from None


def model(logits_fn: LogitsFn, *, bounds: Bounds = (0.0, 1.0)) -> Model:
    """Returns a network of ours as a Foolbox model.

    Args:
      logits_fn: `x [B, H, W, C] -> logits [B, K]`, compiled here.
      bounds: of the images.
    """
    function = compiled(logits_fn)
    return JAXModel(function, bounds=bounds, data_format="channels_last")


@dataclasses.dataclass(frozen=True)
class _FoolboxAttack(HostAttack):
    theirs: Any

    def run(
        self,
        logits_fn: LogitsFn,
        x: jax.Array,
        y: Labels,
        number: int,
        eps: float | None,
        bounds: Bounds,
    ) -> Any:
        """Returns its images within `eps`, or the smallest perturbations."""
        network = JAXModel(logits_fn, bounds=bounds)
        JAXTensor.key = jax.random.PRNGKey(number)
        epsilon = None if eps is None else float(eps)
        _, clipped, _ = self.theirs(network, x, jax.numpy.asarray(y), epsilons=epsilon)
        return clipped


def attack(theirs: Any, **options: Any) -> HostAttack:
    """Returns an attack of Foolbox that is called like ours, see `HostAttack`.

    Args:
      theirs: an attack object of `foolbox.attacks`, or the name of its class there.
      options: of that class, where it is given by name.

    Raises:
      ValueError: for an unknown name, with the nearest.
    """
    if isinstance(theirs, str):
        known = [n for n in dir(foolbox.attacks) if n[0].isupper()]
        if theirs not in known:
            hint = nearest_match(theirs, known)
            raise ValueError(f"Foolbox has no attack {theirs!r}. {hint}")
        theirs = getattr(foolbox.attacks, theirs)(**options)
    return _FoolboxAttack(theirs)
