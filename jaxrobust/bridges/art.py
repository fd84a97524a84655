"""ART, the Adversarial Robustness Toolbox: networks and attacks both ways."""

import dataclasses
import inspect
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import losses
from jaxrobust.array_types import Bounds, Images, Labels, LogitsFn
from jaxrobust.bridges._host_attack import HostAttack, compiled
from jaxrobust.bridges.black_box import numpy_model

try:
    with warnings.catch_warnings():  # it tells of packages that it could use as well
        warnings.simplefilter("ignore")
        from art.estimators import (  # pyright: ignore[reportMissingImports]
            BaseEstimator,
            LossGradientsMixin,
            NeuralNetworkMixin,
        )
        from art.estimators.classification.classifier import (  # pyright: ignore[reportMissingImports]
            ClassGradientsMixin,
            ClassifierMixin,
        )
except ImportError as error:
    raise ImportError(
        f"this needs ART: pip install 'jaxrobust[art]' ({error})."
    ) from None


class ArtClassifier(
    ClassGradientsMixin,
    ClassifierMixin,
    LossGradientsMixin,
    NeuralNetworkMixin,
    BaseEstimator,
):
    """A network of ours as an estimator of ART: it predicts and has gradients."""

    estimator_params: ClassVar[list[str]] = [
        *BaseEstimator.estimator_params,
        "input_shape",
        "nb_classes",
    ]

    def __init__(
        self, logits_fn: LogitsFn, input_shape: tuple[int, ...], bounds: Bounds
    ) -> None:
        """See `classifier`."""
        super().__init__(model=logits_fn, clip_values=bounds, channels_first=False)
        self._input_shape = input_shape
        self._logits = compiled(logits_fn)
        like = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
        self.nb_classes = jax.eval_shape(logits_fn, like).shape[1]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one image, `(H, W, C)`."""
        return self._input_shape

    def predict(
        self, x: np.ndarray, batch_size: int = 128, **kwargs: Any
    ) -> np.ndarray:
        """Returns the logits of images, NumPy arrays both."""
        rows = range(0, len(x), batch_size)
        found = [self._logits(self._images(x[i : i + batch_size])) for i in rows]
        return np.concatenate([np.asarray(logits) for logits in found])

    def loss_gradient(self, x: np.ndarray, y: np.ndarray, **kwargs: Any) -> np.ndarray:
        """Returns the gradient of each image's own cross-entropy; `y` is one-hot."""

        def total(images: Images) -> jax.Array:
            return losses.cross_entropy(self._logits(images), _labels(y)).sum()

        return np.asarray(jax.grad(total)(self._images(x)))

    def compute_loss(
        self, x: np.ndarray, y: np.ndarray, reduction: str = "none", **kwargs: Any
    ) -> np.ndarray:
        """Returns the cross-entropy of each image, or its `mean` or `sum`."""
        found = np.asarray(
            losses.cross_entropy(self._logits(self._images(x)), _labels(y))
        )
        return found if reduction == "none" else getattr(found, reduction)()

    def class_gradient(
        self, x: np.ndarray, label: Any = None, **kwargs: Any
    ) -> np.ndarray:
        """Returns the gradients of logits, `[B, classes, H, W, C]`.

        `label` is one class, one for each image, or None for all.
        """
        logits, pull = jax.vjp(self._logits, self._images(x))

        def one(classes: jax.Array) -> np.ndarray:
            row = jax.nn.one_hot(classes, self.nb_classes, dtype=logits.dtype)
            return np.asarray(pull(jnp.broadcast_to(row, logits.shape))[0])

        if label is None:
            wanted = [jnp.full(len(x), k) for k in range(self.nb_classes)]
        else:
            wanted = [jnp.broadcast_to(jnp.asarray(label), (len(x),))]
        return np.stack([one(classes) for classes in wanted], 1)

    def fit(self, x: np.ndarray, y: Any, *args: Any, **kwargs: Any) -> None:
        """Is not there: train with jaxrobust, or your own loop."""
        raise NotImplementedError("train with jaxrobust, not through ART.")

    def get_activations(self, *args: Any, **kwargs: Any) -> Any:
        """Is not there: a network is a function to logits here."""
        raise NotImplementedError("the network is a function to logits alone.")

    def _images(self, x: np.ndarray) -> jax.Array:
        return jnp.asarray(x, jnp.float32)


def _labels(y: np.ndarray) -> jax.Array:
    return jnp.asarray(y if np.ndim(y) == 1 else np.argmax(y, -1), jnp.int32)


def classifier(
    logits_fn: LogitsFn,
    input_shape: tuple[int, ...],
    *,
    bounds: Bounds = (0.0, 1.0),
) -> ArtClassifier:
    """Returns a network of ours as a classifier for ART's attacks.

    Args:
      logits_fn: `x [B, H, W, C] -> logits [B, K]`, compiled here.
      input_shape: of one image, `(H, W, C)`.
      bounds: of the images, ART's `clip_values`.
    """
    return ArtClassifier(logits_fn, tuple(input_shape), bounds)


@dataclasses.dataclass(frozen=True)
class _ArtAttack(HostAttack):
    make: Callable[..., Any]
    options: dict[str, Any]

    def run(
        self,
        logits_fn: LogitsFn,
        x: jax.Array,
        y: Labels,
        number: int,
        eps: float | None,
        bounds: Bounds,
    ) -> Any:
        """Returns the images that ART makes; it draws from NumPy's own generator."""
        network = classifier(logits_fn, x.shape[1:], bounds=bounds)
        radius = {} if eps is None else {"eps": float(eps)}
        attack = self.make(network, **radius, **self.options)
        labels = np.eye(network.nb_classes, dtype=np.float32)[np.asarray(y)]
        before = np.random.get_state()  # noqa: NPY002
        np.random.seed(number)  # noqa: NPY002
        try:
            return attack.generate(x=np.array(x, np.float32), y=labels)
        finally:
            np.random.set_state(before)  # noqa: NPY002


def attack(make: Callable[..., Any], **options: Any) -> HostAttack:
    """Returns an attack of ART that is called like ours, see `HostAttack`.

    Args:
      make: its class, as `art.attacks.evasion.FastGradientMethod`, or a function of the
        classifier that returns one. It is given `eps` by that name where a call has
        one; an attack without a radius is called with `eps=None`.
      options: other arguments of it.

    Raises:
      TypeError: for an option that it does not have.
    """
    taken = inspect.signature(make).parameters
    if unknown := sorted(set(options) - set(taken)):
        known = ", ".join(taken)
        raise TypeError(f"{make} has no {', '.join(unknown)}; it has {known}.")
    return _ArtAttack(
        make, {"verbose": False, **options} if "verbose" in taken else options
    )


def black_box(estimator: Any) -> LogitsFn:
    """Returns any classifier of ART as a black box, see `numpy_model`.

    What it predicts counts as logits: give one that ends before the softmax.
    """
    first = getattr(estimator, "channels_first", False)
    return numpy_model(estimator.predict, "NCHW" if first else "NHWC")
