"""The square attack: its windows against slices, the reference's rules and flags."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, losses, threat
from jaxrobust.attacks import _square_windows as windows
from jaxrobust.attacks._objective import Problem
from jaxrobust.attacks.square import Square, _new_in_window, _new_linf
from tests.marks import full_but

ORDER = {"l2": 2, "l1": 1}


def length(values, norm, axes=None):
    power = ORDER[norm]
    return np.sum(np.abs(values) ** power, axes, keepdims=axes is not None) ** (
        1 / power
    )


def test_golden_schedule(golden):
    data = golden.load("aa_square")
    for name, squeezed in (("resc0_nq5000", None), ("resc1_nq5000", 5000),
                           ("resc1_nq200", 200)):  # fmt: skip
        shares = [windows.share(int(i), 0.8, squeezed) for i in data["p_it"]]
        chex.assert_trees_all_equal(np.array(shares), data[f"p_{name}"])


def rectangle(rows, columns, norm):
    """Squares around the middle of a rectangle piled up, of norm 1."""
    reach, longest = jnp.array([max(rows, columns) // 2 + 1]), max(rows, columns)
    down, across = (
        windows.cone(jnp.abs(jnp.arange(n) - n // 2)[None], reach, longest, norm)[0]
        for n in (rows, columns)
    )
    pile = np.minimum(np.asarray(down)[:, None], np.asarray(across)[None])
    return pile / length(pile, norm)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("shape", [(1, 3), (2, 5), (3, 7), (4, 4)])
def test_golden_rectangles(golden, norm, shape):
    expected = golden.load("aa_square")[
        f"eta_rect_{norm.upper()}_{shape[0]}x{shape[1]}"
    ]
    chex.assert_trees_all_close(rectangle(*shape, norm), expected, rtol=1e-7, atol=1e-7)


def test_sides():
    """By hand, 32 x 32: sqrt(.8 * 1024) = 28.6, and so on."""
    shares = (0.8, 0.4, 0.1, 0.8 / 512)
    assert [windows.side(p, (32, 32), "linf") for p in shares] == [29, 20, 10, 1]
    assert [windows.side(p, (32, 32), "l2") for p in shares] == [29, 21, 11, 3]
    assert windows.side(0.8, (4, 9), "l1") == 4
    assert windows.side(0.8, (2, 2), "l2") == 2
    schedule = [29] * 3 + [20] * 2 + [10]
    one_by_one = [int(windows.sides(i, schedule, 1)[0]) for i in range(6)]
    assert one_by_one == schedule
    together = windows.sides(jnp.arange(6), schedule, 6)
    chex.assert_trees_all_equal(together, np.array(schedule))


def test_places_reach_every_pixel_and_none_outside():
    draws = jnp.array([[0.0, 0.0], [0.999999, 0.999999], [0.5, 0.2]])
    for size in (1, 3, 5):
        placed = windows.place(draws, jnp.full(3, size), (5, 8))
        assert placed.top.min() == 0
        assert placed.top.max() == 5 - size
        assert placed.left.max() == 8 - size
        mask = windows.inside(placed, (5, 8))
        chex.assert_trees_all_equal(mask.sum((1, 2, 3)), np.array([size * size] * 3))


def eta(size, norm, upright):
    """The reference's window: two rectangles, the second negative."""
    both = np.zeros((size, size))
    if size // 2:
        both[: size // 2] = rectangle(size // 2, size, norm)
    both[size // 2 :] = -rectangle(size - size // 2, size, norm)
    both = both / length(both, norm)
    return both if upright else both.T


def step_by_slices(x, best, draws, size, norm, eps):
    """One proposal of the reference for one image, as its formulas say, in NumPy."""
    height, width, channels = x.shape
    corner = [
        int(min(np.floor(u * (n - size + 1)), n - size))
        for u, n in zip(draws[:4], (height, width) * 2, strict=True)
    ]
    here, there = (
        (slice(a, a + size), slice(b, b + size)) for a, b in (corner[:2], corner[2:])
    )
    signs = np.where(draws[5:] < 0.5, -1, 1)
    delta = best - x
    both = np.zeros((height, width, 1), bool)
    both[here] = both[there] = True
    in_first = length(delta[here], norm, (0, 1))
    in_both = length(delta * both, norm, (0, 1))
    new = eta(size, norm, draws[4] < 0.5)[..., None] * signs
    new = new + delta[here] / (1e-12 + in_first)
    new = new / (1e-12 + length(new, norm, (0, 1)))
    if norm == "l2":
        free = max(eps**2 - length(delta, norm) ** 2, 0) / channels
        new = new * np.sqrt(free + in_both**2)
    else:
        free = max(eps - length(delta, norm), 0) / channels
        new = new * (free + in_both) * channels
    delta = delta.copy()
    delta[there] = 0
    delta[here] = new
    if norm == "l2":
        return np.clip(x + delta / (length(delta, norm) + 1e-12) * eps, 0, 1)
    moved = threat.project(
        jnp.asarray(x + delta)[None], jnp.asarray(x)[None], eps=eps, norm="l1"
    )
    return np.asarray(moved[0])


@pytest.mark.parametrize("norm", full_but(["l2", "l1"], ["l2"]))
@pytest.mark.parametrize("size", full_but([1, 3, 4, 7], [3]))
def test_windows_as_data_are_the_reference_slices(norm, size):
    rng = np.random.default_rng(size)
    eps = {"l2": 0.7, "l1": 5.0}[norm]
    with jax.enable_x64(True):
        x = rng.uniform(size=(4, 7, 9, 3))
        best = threat.project(
            jnp.asarray(x + 0.1 * rng.normal(size=x.shape)), jnp.asarray(x),
            eps=0.95 * eps, norm=norm,
        )  # fmt: skip
        draws = rng.uniform(size=(4, 8))
        problem = Problem(None, jnp.asarray(x), None, eps, 0.0, norm=norm)
        new = _new_in_window(problem, best, jnp.asarray(draws), jnp.full(4, size))
        found = threat.project(new, problem.x, eps=eps, norm=norm)
        for row in range(4):
            expected = step_by_slices(
                x[row], np.asarray(best)[row], draws[row], size, norm, eps
            )
            chex.assert_trees_all_close(found[row], expected, rtol=1e-7, atol=3e-7)


def test_linf_windows_hold_a_face_of_the_ball():
    x = jax.random.uniform(jax.random.key(0), (4, 6, 5, 2))
    draws = jax.random.uniform(jax.random.key(1), (4, 4))
    new = _new_linf((x - 0.1, x + 0.1), x, draws, jnp.full(4, 3))
    for row in range(4):
        moved = np.asarray(new[row] - x[row])
        places = np.argwhere(np.abs(moved[..., 0]) > 0.05)
        assert len(places) == 9
        assert (places.max(0) - places.min(0) == 2).all()
        top, left = places.min(0)
        inner = moved[top : top + 3, left : left + 3]
        signs = np.where(draws[row, 2:] < 0.5, -0.1, 0.1)
        chex.assert_trees_all_close(
            inner, np.broadcast_to(signs, (3, 3, 2)), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("shape", [(16, 16), (9, 32), (3, 4)])
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_first_points(norm, shape):
    """Centred tiles, each a window's pattern or its transpose, of either sign."""
    keys = jax.random.split(jax.random.key(0), 2)
    delta = np.asarray(windows.tiles(keys, jnp.zeros((2, *shape, 3)), norm))
    size = max(min(shape) // 5, 1)
    start = [(n - n // size * size) // 2 for n in shape]
    kinds = [s * eta(size, norm, u) for s in (1, -1) for u in (True, False)]
    seen = set()
    for row in range(2):
        for a in range(start[0], shape[0] - size + 1, size):
            for b in range(start[1], shape[1] - size + 1, size):
                tile = delta[row, a : a + size, b : b + size]
                for channel in range(3):
                    gaps = [np.abs(tile[..., channel] - k).max() for k in kinds]
                    assert min(gaps) < 1e-6
                    seen.add(int(np.argmin(gaps)))
    assert len(seen) == (4 if size > 1 else 2)
    total = shape[0] // size * (shape[1] // size) * 6
    chex.assert_trees_all_close((np.abs(delta) ** ORDER[norm]).sum(), total, rtol=1e-5)


def test_golden_flags(golden):
    """As many images stay robust after 200 queries as under the reference's draws."""
    data = golden.load("aa_square")
    x, y = jnp.asarray(golden.nhwc(data["x"])), jnp.asarray(data["y"])
    net = golden.net(data)
    robust = np.array([
        jnp.argmax(
            net(attacks.square(net, x, y, key=jax.random.key(s), eps=8 / 255,
                               queries=200)), axis=1) == y
        for s in range(5)
    ])  # fmt: skip
    theirs = data["robust_flags"]
    assert abs(robust.sum(1).mean() - theirs.sum(1).mean()) <= 1
    # What their draws agree on, ours do.
    chex.assert_trees_all_equal(robust.mean(0)[theirs.all(0)], 1)
    assert robust.mean(0)[~theirs.any(0)].max() < 0.6


def sawtooth(x):
    """Quantised input: no gradient anywhere, but scores that change."""
    w = jax.random.normal(jax.random.key(5), (x[0].size, 3))
    return jnp.round(x * 255).reshape(x.shape[0], -1) / 255 @ w


def images(shape=(6, 6, 6, 2)):
    x = jax.random.uniform(jax.random.key(1), shape, minval=0.3, maxval=0.7)
    return x, jnp.argmax(sawtooth(x), axis=1)


@pytest.mark.parametrize(
    ("norm", "eps"),
    full_but([("linf", 0.1), ("l2", 1.0), ("l1", 8.0)], [("linf", 0.1), ("l2", 1.0)]),
)
def test_needs_no_gradient_and_later_queries_keep_what_fooled(norm, eps):
    x, y = images()
    few, more = (
        attacks.square(sawtooth, x, y, key=jax.random.key(0), eps=eps, norm=norm,
                       queries=q) for q in (15, 60)
    )  # fmt: skip
    fooled = jnp.argmax(sawtooth(few), axis=1) != y
    assert fooled.sum() > 0
    chex.assert_trees_all_equal(more[fooled], few[fooled])
    assert (losses.margin(sawtooth(more), y) >= losses.margin(sawtooth(few), y)).all()
    assert (jnp.argmax(sawtooth(more), axis=1) != y).sum() >= fooled.sum()


def test_misclassified_images_and_broken_rows_stay():
    x, y = images()
    y = y.at[1].add(1) % 3

    def broken(z):
        """Row 2 turns NaN once it moves."""
        moved = jnp.any(z != x, axis=(1, 2, 3))[:, None]
        at = jnp.arange(6)[:, None] == 2
        return jnp.where(at & moved, jnp.nan, sawtooth(z))

    with pytest.warns(attacks.RobustnessWarning, match="not finite for 1 of 6 images"):
        x_adv = attacks.square(broken, x, y, key=jax.random.key(0), eps=0.2, queries=20)
    chex.assert_trees_all_equal(x_adv[1], x[1])
    chex.assert_tree_all_finite(x_adv)
    carry = Square(1).start(
        Problem(broken, x, y, 0.2, 0.0, loss="margin"),
        jax.random.split(jax.random.key(0), 6), 0,
    )  # fmt: skip
    assert not carry.fooled[2]
    assert carry.fooled[1]


def test_scores_that_never_change_are_told():
    """Those of a model that gives its decision alone."""
    x, y = images()

    def votes(z):
        return 5 * jax.nn.one_hot(jnp.argmax(sawtooth(z), 1), 3)

    options = {"key": jax.random.key(0), "eps": 1e-4, "queries": 5}
    with pytest.warns(attacks.RobustnessWarning, match="for 6 of 6 images at every"):
        attacks.square(votes, x, y, **options)
    attacks.square(sawtooth, x, y, **options)


def test_restarts_and_targets():
    x, y = images()
    one, four = (
        attacks.square(sawtooth, x, y, key=jax.random.key(0), eps=0.03, queries=3,
                       restarts=r) for r in (1, 4)
    )  # fmt: skip
    margins = [losses.margin(sawtooth(a), y) for a in (one, four)]
    assert (margins[1] >= margins[0]).all()
    assert (margins[1] > margins[0]).any()
    target = (y + 1) % 3
    x_adv = attacks.square(sawtooth, x, target, key=jax.random.key(0), eps=0.3,
                           queries=40, targeted=True, loss="ce")  # fmt: skip
    assert (jnp.argmax(sawtooth(x_adv), axis=1) == target).mean() >= 0.5


def test_stochastic_model():
    x, y = images()

    def noisy(z, keys):
        noise = jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys)
        return sawtooth(z) + 1e-3 * noise

    x_adv = attacks.square(noisy, x, y, key=jax.random.key(0), eps=0.2, queries=20,
                           stochastic=True, eot_samples=2)  # fmt: skip
    assert (jnp.argmax(sawtooth(x_adv), axis=1) != y).mean() >= 0.5


@pytest.mark.full
def test_rows_may_be_at_queries_of_their_own():
    """What a scheduler does: a slot that is refilled starts its own count."""
    x, y = images()
    problem = Problem(sawtooth, x, y, 0.1, 0.0, loss="margin", norm="l2")
    method, keys = Square(60), jax.random.split(jax.random.key(0), 6)
    carry = method.start(problem, keys, 0)
    step = jax.jit(lambda i: method.step(problem, keys, i, carry).x)
    mixed = step(jnp.array([0, 55, 0, 55, 12, 12]))
    for row, i in enumerate((0, 55, 0, 55, 12, 12)):
        chex.assert_trees_all_equal(mixed[row], step(jnp.full(6, i))[row])


@pytest.mark.parametrize(
    "shape",
    full_but([((2, 1, 1, 1),), ((2, 3, 2, 3),), ((2, 4, 9, 1),)], [((2, 3, 2, 3),)]),
)
@pytest.mark.parametrize("norm", threat.NORMS)
def test_images_of_any_size(norm, shape):
    x = jax.random.uniform(jax.random.key(1), shape)
    y = jnp.argmax(sawtooth(x), axis=1)
    x_adv = attacks.square(sawtooth, x, y, key=jax.random.key(0), eps=0.5, queries=5,
                           norm=norm)  # fmt: skip
    chex.assert_shape(x_adv, shape)
    assert float(threat.distance(x_adv, x, norm=norm).max()) <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"key": None}, ValueError, "`key` is missing and the square attack needs one"),
        ({"queries": -1}, ValueError, "`queries` must be at least 0, got -1"),
        ({"queries": 2.0}, TypeError, "`queries` must be a Python int"),
        (
            {"p_init": 0.0},
            ValueError,
            "`p_init` must be above 0 and at most 1",
        ),
        ({"norm": "max"}, ValueError, "Unknown norm 'max'. Did you mean"),
        ({"eps": -0.1}, ValueError, "`eps` must be at least 0"),
        ({"loss": "cs"}, ValueError, "Unknown loss 'cs'. Did you mean 'ce'"),
    ],
)
def test_wrong_arguments(wrong, error, message):
    given = {"key": jax.random.key(0), "eps": 0.1} | wrong
    with pytest.raises(error, match=message):
        attacks.square(sawtooth, *images(), **given)


def test_flat_rows_are_no_images():
    with pytest.raises(
        ValueError, match=r"`x` must have shape \[B, H, W, C\] for square"
    ):
        attacks.square(sawtooth, jnp.zeros((2, 8)), jnp.zeros(2, int),
                       key=jax.random.key(0), eps=0.1)  # fmt: skip
