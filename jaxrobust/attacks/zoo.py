"""ZOO: Carlini and Wagner's L2 attack on difference quotients, pixel by pixel."""

import dataclasses
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrobust import threat
from jaxrobust.array_types import (
    Images,
    Key,
    Labels,
    LogitsFn,
    Norm,
    PerExample,
    Scalar,
)
from jaxrobust.attacks import _checks
from jaxrobust.attacks._adam import Moments, adam, at_rest
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import (
    Count,
    Health,
    Method,
    like,
    look,
    model_keys,
    repeat,
)
from jaxrobust.attacks._objective import Problem, evaluate, fold
from jaxrobust.attacks._options import ModelOptions, shares
from jaxrobust.attacks._zeroth_order import slope

_COORDINATE_STREAM = 0x7A6F6F


class Descent(NamedTuple):
    """One descent: its iterate and the margin there, and Adam's state.

    `counts` say how often each coordinate was visited; `hit`, whether the descent has
    come upon a point that is misclassified by `kappa`.
    """

    x: Images
    margin: PerExample
    moments: Moments
    counts: Images
    hit: jax.Array


class Weight(NamedTuple):
    """The weight c of the margin `[B]`, between one that failed and one that did."""

    c: PerExample
    low: PerExample
    high: PerExample


class Carry(NamedTuple):
    """State between two steps; distance is infinite until there is a best point."""

    descent: Descent
    weight: Weight
    clean_margin: PerExample
    best: Images
    distance: PerExample
    health: Health | None


@dataclasses.dataclass(frozen=True)
class ZOO(Method):
    """ZOO-ADAM without its arrays: `steps` of all descents, `per_descent` of each."""

    per_descent: int = 100
    coordinates: int = 128
    h: float = 1e-4
    kappa: float = 0.0
    const: float = 1.0

    @property
    def needs_key(self) -> str | None:
        """Its coordinates are random."""
        return "ZOO"

    def check(self) -> None:
        """Raises for a number out of range."""
        _checks.check_count("coordinates", self.coordinates, 1)
        _checks.check_ranges(h=self.h, const=self.const, kappa=self.kappa)

    def start(
        self, problem: Problem, keys: Key | None, r: Count, *, watch: bool = False
    ) -> Carry:
        """Starts at the image; ends there if it is misclassified."""
        del r  # the keys are its own
        x = problem.x
        at = evaluate(problem, x, model_keys(problem, keys, self.steps))
        assert at.logits is not None
        assert at.fooled is not None
        none = jnp.zeros(x.shape[:1], bool)
        zero = jnp.zeros(x.shape[:1], x.dtype)
        margin = at.value.astype(x.dtype)
        return Carry(
            _from_image(x, margin),
            Weight(zero + self.const, zero, zero + jnp.inf),
            margin,
            x,
            jnp.where(at.fooled, 0, jnp.inf).astype(x.dtype),
            Health(*look(at.logits), none) if watch else None,
        )

    def step(self, problem: Problem, keys: Key | None, i: Count, carry: Carry) -> Carry:
        """Moves some coordinates; a descent's first step starts it at the image."""
        carry = self._begun(problem, i, carry)
        descent = self._descended(problem, keys, i, carry)
        at = evaluate(problem, descent.x, model_keys(problem, keys, i))
        assert at.fooled is not None
        hit = at.fooled & (at.value >= self.kappa)
        distance = threat.distance(descent.x, problem.x, norm="l2")
        nearer = hit & (distance < carry.distance)
        return carry._replace(
            descent=descent._replace(
                margin=at.value.astype(distance.dtype), hit=descent.hit | hit
            ),
            best=jnp.where(like(nearer, descent.x), descent.x, carry.best),
            distance=jnp.where(nearer, distance, carry.distance),
        )

    def finish(self, problem: Problem, keys: Key | None, carry: Carry) -> Images:
        """Returns the nearest misclassified point within eps, else the image."""
        del keys
        within = carry.distance <= jnp.asarray(problem.eps, problem.x.dtype)
        return jnp.where(like(within, carry.best), carry.best, problem.x)

    def _begun(self, problem: Problem, i: Count, carry: Carry) -> Carry:
        """Where step i is the first of another descent: at the image, with a new c."""
        again = jnp.asarray((i % self.per_descent == 0) & (i > 0))
        rows = jnp.broadcast_to(again, carry.distance.shape)
        old = carry.descent
        fresh = _from_image(problem.x, carry.clean_margin)
        chosen = jax.tree.map(
            lambda new, kept: jnp.where(like(rows, new), new, kept),
            (fresh, _another(carry.weight, old.hit)),
            (old, carry.weight),
        )
        return carry._replace(descent=chosen[0], weight=chosen[1])

    def _descended(
        self, problem: Problem, keys: Key | None, i: Count, carry: Carry
    ) -> Descent:
        """One step of Adam on the chosen coordinates alone, back into the box."""
        descent, x = carry.descent, carry.descent.x
        places = self._coordinates(keys, i, x)
        # The hinge is flat beyond kappa; there the distance alone counts.
        active = jnp.where(descent.margin < self.kappa, carry.weight.c, 0)
        rises = self._slopes(problem, keys, i, x, places)
        rows = jnp.arange(x.shape[0])[:, None]
        flat = x.reshape(x.shape[0], -1)
        here = flat[rows, places] - problem.x.reshape(flat.shape)[rows, places]
        grad = 2 * here - active[:, None] * rises

        def of_places(values: Images) -> Float[Array, "B n"]:
            return values.reshape(flat.shape)[rows, places]

        def put(values: Images, new: Float[Array, "B n"]) -> Images:
            return values.reshape(flat.shape).at[rows, places].set(new).reshape(x.shape)

        counts = of_places(descent.counts) + 1
        means, direction = adam(jax.tree.map(of_places, descent.moments), grad, counts)
        step = jnp.asarray(problem.step_size, x.dtype).reshape(-1, 1) * direction
        moved = jnp.clip(of_places(x) - step, *problem.bounds)
        return descent._replace(
            x=put(x, moved),
            moments=jax.tree.map(put, descent.moments, means),
            counts=put(descent.counts, counts),
        )

    def _coordinates(self, keys: Key | None, i: Count, x: Images) -> Int[Array, "B n"]:
        """Draws the coordinates of step i, of each row its own and no two the same."""
        size = x[0].size
        draw_keys = fold(fold(keys, _COORDINATE_STREAM), i)
        assert draw_keys is not None
        order = jax.vmap(lambda k: jax.random.permutation(k, size))(draw_keys)
        return order[:, : self.coordinates]

    def _slopes(
        self,
        problem: Problem,
        keys: Key | None,
        i: Count,
        x: Images,
        places: Int[Array, "B n"],
    ) -> Float[Array, "B n"]:
        """The margin's difference quotients (equation 6), one coordinate per turn."""
        row_keys = model_keys(problem, keys, i)
        rows = jnp.arange(x.shape[0])

        def put(j: jax.Array, found: Float[Array, "n B"]) -> Float[Array, "n B"]:
            unit = jnp.zeros((x.shape[0], x[0].size), x.dtype)
            shift = unit.at[rows, places[:, j]].set(self.h).reshape(x.shape)
            rise = slope(problem, x, shift, self.h, fold(row_keys, j))
            return found.at[j].set(rise)

        count = places.shape[1]
        return repeat(count, put, jnp.zeros((count, x.shape[0]), x.dtype), 1).T


def _from_image(x: Images, margin: PerExample) -> Descent:
    none = jnp.zeros(x.shape[:1], bool)
    return Descent(x, margin, at_rest(x), jnp.zeros_like(x), none)


def _another(weight: Weight, hit: jax.Array) -> Weight:
    """Halves the interval of c after a descent; ten times c where none has hit yet."""
    low = jnp.where(hit, weight.low, jnp.maximum(weight.low, weight.c))
    high = jnp.where(hit, jnp.minimum(weight.high, weight.c), weight.high)
    c = jnp.where(jnp.isfinite(high), (low + high) / 2, 10 * weight.c)
    return Weight(c, low, high)


@shares(ModelOptions)
def zoo(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    key: Key,
    eps: Scalar | None,
    steps: int = 100,
    binary_steps: int = 3,
    coordinates: int = 128,
    lr: Scalar = 0.01,
    h: float = 1e-4,
    kappa: float = 0.0,
    const: float = 1.0,
    norm: Norm = "l2",
    targeted: bool = False,
    unroll: int | bool | None = None,
    **options: Unpack[ModelOptions],
) -> Images:
    """ZOO-ADAM: a small L2 perturbation from scores alone (Chen et al. 2017).

    Minimises `|x_adv - x|^2 + c max(kappa - margin, 0)` by Adam on single coordinates
    (a pixel's channel), drawn at random, whose derivative is a symmetric difference
    quotient; Adam's state and count are a coordinate's own. The margin of log
    probabilities, equations 4 and 5, is that of logits. c is searched for per example:
    ten times more after a descent that found nothing, else the interval is halved.

    Left out: the tanh change of variables (coordinates are clipped to the box), and
    what the paper adds for ImageNet, attack-space reduction, hierarchical attack and
    importance sampling. The defaults are a small budget, 77,000 calls an image: they
    visit a coordinate of a 32 x 32 colour image four times per search. The two points
    of a quotient see one randomness of the model.

    Args:
      logits_fn: `x -> logits [B, K]`, pure; `(x, keys [B]) -> logits` if stochastic.
        Only called, never differentiated:
        `binary_steps * steps * (2 * coordinates + 1) + 1` times.
      x: images `[B, H, W, C]`, floating, inside `bounds`.
      y: labels `[B]`; the target classes where `targeted`. An image that is
        misclassified already (that is of its target) is returned as it is.
      key: one key (row i uses fold_in(key, i)) or one per example.
      eps: radius up to which a perturbation counts; None: any. May be traced.
      steps: of each search, at least 0; static.
      binary_steps: searches, each with its own c, at least 1; static.
      coordinates: moved per step, at least 1; all where there are fewer; static.
      lr: Adam's learning rate, in units of the images; may be traced.
      h: half the distance of the two points of a quotient, above 0.
      kappa: margin by which a point must be misclassified to count, in logit units.
      const: the first c, above 0. Adam's steps have lengths of their own: it only says
        how the margin weighs against the distance.
      norm: 'l2'; the attack has no other.
      targeted: look for the class `y` instead.
      unroll: how the loop over steps is written out; None chooses.
      **options: shared by all attacks.

    Returns:
      Shape and dtype of `x`, in the box: the nearest misclassified point found where
      it is within `eps`, else the image. No gradient flows.

    Raises:
      ValueError: for a value out of range, named in the message.
      TypeError: for arrays or keys of the wrong type.

    Reference:
      Chen, Zhang, Sharma, Yi, Hsieh: ZOO: zeroth order optimization based black-box
      attacks to deep neural networks without training substitute models, AISec 2017,
      arXiv 1708.03999, algorithm 2.
    """
    threat.check_norm(norm)
    if norm != "l2":
        raise ValueError(f"`norm` of zoo must be 'l2', its only norm, got {norm!r}.")
    _checks.check_ranges(lr=lr, h=h)
    _checks.check_images(x)
    threat.check_shape("lr", lr, x.shape, None)
    bounds = options.get("bounds", (0.0, 1.0))
    spacing = float(jnp.finfo(x.dtype).eps) * max(map(abs, bounds))
    if isinstance(h, float) and h < spacing:
        raise ValueError(
            f"`h` = {h} is less than what parts two values of {x.dtype} images, about "
            f"{spacing:.2g}: differences would be 0; take a larger one, or float32."
        )
    _checks.check_count("steps", steps, 0)
    _checks.check_count("binary_steps", binary_steps, 1)
    problem = Problem(
        logits_fn,
        x,
        y,
        jnp.inf if eps is None else eps,
        lr,
        norm=norm,
        loss="margin",
        targeted=targeted,
        **options,
    )
    method = ZOO(
        steps * binary_steps,
        per_descent=steps,
        coordinates=coordinates,
        h=h,
        kappa=kappa,
        const=const,
    )
    return iterate(problem, method, key, unroll)
