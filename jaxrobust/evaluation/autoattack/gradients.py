"""Whether the gradients that AutoAttack follows are those of the network.

A few images, 13 gradients and 51 forward passes each, where a robust one takes some
1,900 and 5,900; of a randomised model nothing is looked at.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import parallel
from jaxrobust.analysis import masking
from jaxrobust.analysis import slopes as analysis
from jaxrobust.array_types import Images, Labels, Logits
from jaxrobust.attacks import stepping
from jaxrobust.evaluation import flags, slopes
from jaxrobust.evaluation.autoattack.settings import Settings
from jaxrobust.evaluation.network import coarsest

_CHECKED = 64
_DIRECTIONS = 4
# Of a network that gives all images one class there is nothing that could be moved.
_OF_CONSTANT = ("zero_gradients", "black_box_beats_white_box")


def look(settings: Settings) -> dict[str, float]:
    """Returns numbers about gradients and predictions at clean images."""
    held, check = settings.held, settings.check
    found = {
        f"clean_{name}": float(value)
        for name, value in flags.predictions(held.clean, held.y).items()
    }
    if settings.stochastic:
        return found
    x, y = jnp.asarray(held.x[:_CHECKED]), jnp.asarray(held.y[:_CHECKED])
    like = jax.ShapeDtypeStruct((check.batch, *x.shape[1:]), x.dtype)
    resolution = coarsest(jax.make_jaxpr(check.model.fn)(check.arrays, like).jaxpr)
    measured = analysis.measure(
        lambda points: jnp.asarray(check(np.asarray(points))),
        functools.partial(_slope, settings, _compiled(settings, like)),
        x,
        y,
        keys=held.keys[: len(x)],
        eps=settings.eps,
        norm=settings.ball.norm,
        bounds=settings.ball.bounds,
        resolution=resolution,
        directions=_DIRECTIONS,
    )
    numbers = slopes.summary(measured, resolution)
    known = {n: numbers[n] for n in flags.OF_SLOPES if numbers[n] is not None}
    return found | known


def judged(
    found: Mapping[str, float], raised: Sequence[flags.Flag], n: int
) -> list[flags.Flag]:
    """Adds flags to those of AutoAttack's own numbers.

    Args:
      found: numbers of `look` among others.
      raised: flags so far.
      n: number of images.
    """
    constant = bool(found["clean_constant"])
    nothing = flags.learned_nothing(
        found["clean_accuracy"], found["clean_chance"], n, constant=constant
    )
    if nothing and constant:
        kept = [flag for flag in raised if flag["name"] not in _OF_CONSTANT]
        return flags.joined(kept, nothing)
    more = flags.from_slopes({name: found.get(name) for name in flags.OF_SLOPES})
    return flags.joined(raised, [*nothing, *more])


def _compiled(settings: Settings, like: jax.ShapeDtypeStruct) -> Any:
    """Compiles the gradient of the log-odds for the batches of the second look."""
    check, place = settings.check, settings.place

    def gradient(arrays: Any, x: Images, y: Labels) -> tuple[Images, Logits]:
        fn = functools.partial(check.model.fn, arrays)
        return masking.input_gradient(fn, x, y, odds=True)

    examples = (np.zeros(like.shape, like.dtype), np.zeros(like.shape[0], np.int32))
    return stepping.build(
        gradient,
        check.arrays,
        *place.put_rows(examples),
        model=check.model,
        shardings=place.rows,
        seldom=True,
    )


def _slope(
    settings: Settings, call: Any, x: Images, y: Labels
) -> tuple[Images, Logits]:
    """Returns gradients and logits of a few images, in batches of the one shape."""
    check, place, parts = settings.check, settings.place, []
    images, labels = np.asarray(x), np.asarray(y, np.int32)
    for begin in range(0, len(x), check.batch):
        rows = np.minimum(np.arange(begin, begin + check.batch), len(x) - 1)
        given = place.put_rows((images[rows], labels[rows]))
        parts.append(parallel.to_host(call(check.arrays, *given)))
    gradient, logits = (
        np.concatenate(part)[: len(x)] for part in zip(*parts, strict=True)
    )
    return jnp.asarray(gradient), jnp.asarray(logits)
