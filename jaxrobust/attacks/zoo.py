"""ZOO: Carlini and Wagner's L2 attack on difference quotients, pixel by pixel."""

import dataclasses
from typing import Annotated, Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrobust._checks import Range
from jaxrobust._shards import varied_alike
from jaxrobust.array_types import Images, Labels, LogitsFn, PerExample, Scalar
from jaxrobust.attacks._ascent import adam
from jaxrobust.attacks._carlini import Weight
from jaxrobust.attacks._checks import check_images
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, Health, choose, model_keys, repeat
from jaxrobust.attacks._nearest import Nearest, Smallest
from jaxrobust.attacks._objective import Keys, Problem, evaluate, fold, slope
from jaxrobust.attacks._options import PositiveInt, TargetOptions, shares

_COORDINATE_STREAM = 0x7A6F6F
# One for each value, as algorithm 2 has it: a coordinate counts its own visits.
_ADAM = adam()

Places = Int[Array, "B n"]


class Descent(NamedTuple):
    """One descent: its iterate and the margin there, and Adam's state of each value."""

    x: Images
    margin: PerExample
    adam: Any
    hit: jax.Array  # it has come upon a point that is misclassified by `kappa`


class Carry(NamedTuple):
    """State between two steps."""

    descent: Descent
    weight: Weight
    clean_margin: PerExample
    nearest: Nearest
    health: Health | None


@dataclasses.dataclass(frozen=True)
class ZOO(Smallest):
    """ZOO-ADAM without its arrays: `steps` of all descents, `per_descent` of each."""

    random = "ZOO"
    length = "lr"

    per_descent: int = 100
    coordinates: int = 128
    h: float = 1e-4
    kappa: float = 0.0
    const: float = 1.0

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Starts at the image; ends there if it is misclassified."""
        x = problem.x
        at = evaluate(problem, x, model_keys(problem, keys, self.steps))
        margin = at.value.astype(x.dtype)
        return Carry(
            _from_image(x, margin),
            Weight.first(margin, self.const),
            margin,
            Nearest.first(problem, at.fooled),
            Health.of(problem, at.logits),
        )

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Moves some coordinates; a descent's first step starts it at the image."""
        carry = self._begun(problem, i, carry)
        descent = self._descended(problem, keys, i, carry)
        at = evaluate(problem, descent.x, model_keys(problem, keys, i))
        hit = at.fooled & (at.value >= self.kappa)
        margin = at.value.astype(descent.x.dtype)
        return carry._replace(
            health=carry.health and carry.health.saw(at.logits),
            descent=descent._replace(margin=margin, hit=descent.hit | hit),
            nearest=carry.nearest.or_nearer(problem, descent.x, hit),
        )

    def _begun(self, problem: Problem, i: Count, carry: Carry) -> Carry:
        """Where step i is the first of another descent: at the image, with a new c."""
        again = jnp.asarray((i % self.per_descent == 0) & (i > 0))
        rows, old = jnp.broadcast_to(again, problem.y.shape), carry.descent
        fresh = _from_image(problem.x, carry.clean_margin)
        return carry._replace(
            descent=choose(rows, fresh, old),
            weight=choose(rows, carry.weight.next(old.hit), carry.weight),
        )

    def _descended(
        self, problem: Problem, keys: Keys, i: Count, carry: Carry
    ) -> Descent:
        """One step of Adam on the chosen coordinates alone, back into the box."""
        descent, x = carry.descent, carry.descent.x
        places = self._coordinates(keys, i, x)
        rows = jnp.arange(x.shape[0])[:, None]

        def of_places(values: Images) -> Float[Array, "B n"]:
            return values.reshape(x.shape[0], -1)[rows, places]

        def put(values: Images, new: Float[Array, "B n"]) -> Images:
            flat = values.reshape(x.shape[0], -1)
            return flat.at[rows, places].set(new).reshape(values.shape)

        # The hinge is flat beyond kappa; there the distance alone counts.
        active = jnp.where(descent.margin < self.kappa, carry.weight.c, 0)
        rises = self._slopes(problem, keys, i, x, places)
        grad = 2 * (of_places(x) - of_places(problem.x)) - active[:, None] * rises
        update: Any = jax.vmap(jax.vmap(_ADAM.update))
        direction, state = update(grad, jax.tree.map(of_places, descent.adam))
        step = jnp.asarray(problem.step_size, x.dtype).reshape(-1, 1) * direction
        moved = jnp.clip(of_places(x) - step, *problem.bounds)
        adam = jax.tree.map(put, descent.adam, state)
        return descent._replace(x=put(x, moved), adam=adam)

    def _coordinates(self, keys: Keys, i: Count, x: Images) -> Places:
        """Draws the coordinates of step i, of each row its own and no two the same."""
        draw_keys, size = fold(keys, _COORDINATE_STREAM, i), x[0].size
        order = jax.vmap(lambda k: jax.random.permutation(k, size))(draw_keys)
        return order[:, : self.coordinates]

    def _slopes(
        self, problem: Problem, keys: Keys, i: Count, x: Images, places: Places
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
        zeros, _ = varied_alike((jnp.zeros((count, x.shape[0]), x.dtype), x))
        return repeat(count, put, zeros, 1).T


def _from_image(x: Images, margin: PerExample) -> Descent:
    state = jax.vmap(jax.vmap(_ADAM.init))(x.reshape(x.shape[0], -1))
    return Descent(x, margin, state, jnp.zeros(x.shape[:1], bool))


@shares(TargetOptions, norm="l2")
def zoo(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None,
    steps: int = 100,
    binary_steps: PositiveInt = 3,
    coordinates: PositiveInt = 128,
    lr: Annotated[Scalar, Range(0, 1e6)] = 0.01,
    h: Annotated[float, Range(0, 1e6, above=True)] = 1e-4,
    kappa: Annotated[float, Range(0, 1e10)] = 0.0,
    const: Annotated[float, Range(0, 1e10, above=True)] = 1.0,
    **options: Unpack[TargetOptions],
) -> Images:
    """ZOO-ADAM: a small L2 perturbation from scores alone (Chen et al. 2017).

    Minimises `|x_adv - x|^2 + c max(kappa - margin, 0)` by Adam on single coordinates
    (a pixel's channel), drawn at random, whose derivative is a symmetric difference
    quotient; Adam's state and count are a coordinate's own. The margin of log
    probabilities, equations 4 and 5, is that of logits. c is searched for per example:
    ten times more after a descent that found nothing, else the interval is halved.

    Left out: the tanh change of variables (coordinates are clipped to the box), and
    what the paper adds for ImageNet, attack-space reduction, hierarchical attack and
    importance sampling. The model is called
    `binary_steps * steps * (2 * coordinates + 1) + 1` times. The defaults are a small
    budget, 77,000 calls an image: they visit a coordinate of a 32 x 32 colour image
    four times per search. The two points of a quotient see one randomness of the model.

    Args:
      steps: of each search, at least 0; static.
      binary_steps: searches, each with its own c, at least 1; static.
      coordinates: moved per step, at least 1; all where there are fewer; static.
      lr: Adam's learning rate, in units of the images; may be traced.
      h: half the distance of the two points of a quotient, above 0.
      kappa: margin by which a point must be misclassified to count, in logit units.
      const: the first c, above 0; over the image's lead where that is not between
        .01 and 100, so that the scale of the logits does not count (ours). Adam's
        steps have lengths of their own: it only says how the margin weighs against the
        distance.
      norm: 'l2'; the attack has no other.

    Reference:
      Chen, Zhang, Sharma, Yi, Hsieh: ZOO: zeroth order optimization based black-box
      attacks to deep neural networks without training substitute models, AISec 2017,
      arXiv 1708.03999, algorithm 2.
    """
    if (norm := options.get("norm")) != "l2":
        raise ValueError(f"`norm` of zoo must be 'l2', its only norm, got {norm!r}.")
    check_images(x)
    bounds = options.get("bounds", (0.0, 1.0))
    spacing = float(jnp.finfo(x.dtype).eps) * max(map(abs, bounds))
    if isinstance(h, float) and h < spacing:
        raise ValueError(
            f"`h` = {h} is less than what parts two values of {x.dtype} images, about "
            f"{spacing:.2g}: differences would be 0; take a larger one, or float32."
        )
    method = ZOO(
        steps * binary_steps,
        per_descent=steps,
        coordinates=coordinates,
        h=h,
        kappa=kappa,
        const=const,
    )
    return iterate(method, logits_fn, x, y, eps, lr, loss="margin", **options)
