"""Models to attack in place of others: of several one, differentiable, with a draw."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp

from jaxrobust import losses
from jaxrobust._checks import check_choice
from jaxrobust.array_types import Images, Key, Labels, Logits, LogitsFn, PerExample
from jaxrobust.attacks._objective import Loss, OnInput, check_loss, fold, named

Out = TypeVar("Out")
_MODEL_STREAM = 0x746D
_MEANS = ("logits", "probabilities")


def ensemble(
    logits_fns: Sequence[LogitsFn],
    mean: Literal["logits", "probabilities"] = "logits",
    weights: Sequence[float] | None = None,
) -> LogitsFn:
    """Makes one model of several, as a source of images that fool others.

    Args:
      logits_fns: models `x -> logits [B, K]` of the same classes. Stochastic ones all
        take the same keys.
      mean: of their 'logits', or 'probabilities' (the logits are then its logarithm).
      weights: of the models; all alike by default.

    Returns:
      `x -> logits [B, K]`.

    Raises:
      ValueError: for no model, another mean, weights that do not fit, or (when called)
        models of other classes.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxrobust import attacks
      >>> one, two = (lambda x: x), (lambda x: -3 * x)
      >>> attacks.ensemble([one, two])(jnp.array([[1.0, 2.0]])).tolist()
      [[-1.0, -2.0]]

    Reference:
      Liu et al., Delving into transferable adversarial examples and black-box attacks,
      ICLR 2017, arXiv 1611.02770; of logits: Dong et al. 2018, arXiv 1710.06081.
    """
    check_choice("mean", mean, _MEANS)
    fns, shares = _weighted(logits_fns, weights)

    def logits_fn(x: Images, *keys: Key) -> Logits:
        found = [losses.comparable(fn(x, *keys)) for fn in fns]
        if len({one.shape for one in found}) > 1:
            raise ValueError(
                "models of an ensemble must have the same classes, got logits of "
                f"{[one.shape for one in found]}."
            )
        if mean == "probabilities":
            found = [jax.nn.log_softmax(one) for one in found]
            terms = [one + jnp.log(w) for one, w in zip(found, shares, strict=True)]
            return jax.nn.logsumexp(jnp.stack(terms), axis=0)
        return sum(w * one for one, w in zip(found, shares, strict=True))  # pyright: ignore[reportReturnType]

    return logits_fn


def mean_loss(
    logits_fns: Sequence[LogitsFn],
    loss: Loss = "ce",
    weights: Sequence[float] | None = None,
) -> OnInput:
    """Returns the mean loss of several models, for the `loss` of an attack.

    What counts as success is still for the attack's own model to say, an `ensemble`.

    Args:
      logits_fns: models `x -> logits [B, K]`, without randomness.
      loss: 'ce', 'margin', 'dlr' or a function (logits, y) -> `[B]`.
      weights: of the models; all alike by default.

    Raises:
      ValueError: for no model, an unknown loss, or weights that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxrobust import attacks
      >>> one, two = (lambda x: x), (lambda x: -3 * x)
      >>> loss = attacks.mean_loss([one, two], "margin")
      >>> loss.fn(jnp.array([[1.0, 2.0]]), jnp.array([0])).tolist()
      [-1.0]
    """
    check_loss(loss)
    fns, shares = _weighted(logits_fns, weights)
    own: Any = named(loss)

    def fn(x: Images, y: Labels) -> PerExample:
        found = (own(losses.comparable(one(x)), y) for one in fns)
        return sum(w * one for one, w in zip(found, shares, strict=True))  # pyright: ignore[reportReturnType]

    return OnInput(fn)


def _weighted(
    logits_fns: Sequence[LogitsFn], weights: Sequence[float] | None
) -> tuple[tuple[LogitsFn, ...], tuple[float, ...]]:
    """The models, and weights that sum to 1."""
    fns = tuple(logits_fns)
    given = (1.0,) * len(fns) if weights is None else tuple(map(float, weights))
    if not fns or len(given) != len(fns) or not all(0 < w < jnp.inf for w in given):
        raise ValueError(
            "an ensemble needs at least one model, and `weights` one positive number "
            f"for each, got {len(fns)} models and weights {weights}."
        )
    return fns, tuple(w / sum(given) for w in given)


def straight_through(
    forward: Callable[[Any], Out], backward: Callable[[Any], Any] | None = None
) -> Callable[[Any], Out]:
    """Makes a function that computes one thing and is differentiated as another.

    Backward pass differentiable approximation (Athalye et al. 2018, section 4.1): for
    what has no gradient, or a useless one, such as rounding.

    Args:
      forward: what is computed, exactly: an array, or a tree of them.
      backward: what it is differentiated as, with outputs of the same shapes; None: the
        identity.

    Returns:
      A function of one argument.

    Raises:
      ValueError: when called, if the two differ in shape.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxrobust import attacks
      >>> rounded = attacks.straight_through(jnp.round)
      >>> float(rounded(0.7)), float(jax.grad(rounded)(0.7))
      (1.0, 1.0)

    Reference:
      Athalye, Carlini, Wagner, Obfuscated gradients give a false sense of security,
      ICML 2018, arXiv 1802.00420; Bengio et al., arXiv 1308.3432.
    """

    def joined(x: Any) -> Out:
        out = jax.lax.stop_gradient(forward(x))
        near = x if backward is None else backward(x)

        def both(value: Any, like: Any) -> Any:
            if jnp.shape(value) != jnp.shape(like):
                raise ValueError(
                    "what is computed and what is differentiated must have one shape, "
                    f"got {jnp.shape(value)} and {jnp.shape(like)}."
                )
            # Exactly the value: a number less itself is 0.
            own = like - jax.lax.stop_gradient(like)
            return value + jnp.where(jnp.isfinite(own), own, 0).astype(value.dtype)

        return jax.tree.map(both, out, near)

    return joined


def with_transform(
    logits_fn: LogitsFn, transform: Callable[[Any, Key], Any], stochastic: bool = False
) -> LogitsFn:
    """Puts a random change of the image in front of a model, for stochastic attacks.

    An attack with `stochastic=True` and `eot_samples=n` then follows the mean gradient
    over n draws of it (expectation over transformation, Athalye et al. 2018).

    Args:
      logits_fn: `x -> logits [B, K]`.
      transform: `(image [H, W, C], key) -> image`.
      stochastic: `logits_fn` is called with keys as well, `(x, keys)`, of its own.

    Returns:
      `(x, keys [B]) -> logits`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxrobust import attacks
      >>> noisy = attacks.with_transform(
      ...     lambda x: x.reshape(len(x), -1),
      ...     lambda image, key: image + jax.random.normal(key, image.shape))
      >>> x, y = jnp.full((2, 2, 2, 1), 0.5), jnp.zeros(2, int)
      >>> x_adv = attacks.bim(noisy, x, y, key=jax.random.key(0), eps=0.1,
      ...     step_size=0.1, steps=1, stochastic=True, eot_samples=8)
      >>> bool((x_adv[:, 0, 0] < 0.5).all())
      True

    Reference:
      Athalye et al., Synthesizing robust adversarial examples, ICML 2018,
      arXiv 1707.07397.
    """

    def changed(x: Images, keys: Key) -> Logits:
        own = (fold(keys, _MODEL_STREAM),) if stochastic else ()
        return logits_fn(jax.vmap(transform)(x, keys), *own)

    return changed
