"""Margins and radii; branch and bound against all vertices; what is refused."""

import inspect
import itertools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, certify
from jaxrobust.attacks import programs
from jaxrobust.certify import branching
from tests.marks import full_but


def network(seed, sizes=(6, 16, 3), scale=1.0):
    rng = np.random.default_rng(seed)
    pairs = itertools.pairwise(sizes)
    weights = [scale * rng.normal(size=p).astype(np.float32) for p in pairs]

    def apply(x):
        for w in weights[:-1]:
            x = nn.relu(x @ w - 0.2)
        return x @ weights[-1]

    return apply, weights


def images(count, size, seed=0):
    x = np.random.default_rng(seed).random((count, size)).astype(np.float32)
    return jnp.asarray(x)


def least_by_vertices(weights, x, eps, y):
    """Least margin of a network of one hidden layer: at a vertex of its pieces.

    The pieces are cut by the units' planes and the walls of the box.
    """
    size = len(x)
    planes = [(w, 0.2) for w in weights[0].T.astype(float)]
    low, high = np.maximum(x - eps, 0), np.minimum(x + eps, 1)
    planes += [(e, v) for e, v in zip(np.eye(size), low, strict=True)]
    planes += [(e, v) for e, v in zip(np.eye(size), high, strict=True)]
    best = np.inf
    for chosen in itertools.combinations(planes, size):
        a, b = (np.array(v) for v in zip(*chosen, strict=True))
        if abs(np.linalg.det(a)) < 1e-12:
            continue
        z = np.linalg.solve(a, b)
        if (z < low - 1e-9).any() or (z > high + 1e-9).any():
            continue
        logits = np.maximum(z @ weights[0] - 0.2, 0) @ weights[1]
        best = min(best, *(logits[y] - np.delete(logits, y)))
    return best


def test_branch_and_bound_finds_the_least_margin():
    """Of 12 units, within the tolerance, and the sign of each."""
    fn, weights = network(1, (3, 12, 3))
    x = images(12, 3)
    y = jnp.argmax(fn(x), 1)
    radii = jnp.linspace(0.02, 0.5, 12)
    want = np.array(
        [
            least_by_vertices(weights, np.asarray(a, float), float(e), int(c))
            for a, e, c in zip(x, radii, y, strict=True)
        ]
    )
    exact = branching.margin(fn, x, y, radii, "linf", (0.0, 1.0), 60, tolerance=1e-3)
    assert (np.asarray(exact) <= want + 1e-6).all()
    np.testing.assert_allclose(exact, want, atol=5e-3)
    signs = certify.margin(fn, x, y, eps=radii, method="bab")
    assert ((np.asarray(signs) > 0) == (want > 0)).all()
    crown = certify.margin(fn, x, y, eps=radii)
    assert (crown <= want + 1e-6).all()
    assert ((crown > 0) < (want > 0)).any(), "it proves more than CROWN"


def test_branch_and_bound_is_sound_when_time_is_up():
    fn, weights = network(1, (3, 12, 3))
    x = images(1, 3)
    y = jnp.argmax(fn(x), 1)
    found = certify.margin(fn, x, y, eps=0.3, method="bab", seconds=0)
    want = least_by_vertices(weights, np.asarray(x[0], float), 0.3, int(y[0]))
    assert np.isfinite(found[0])
    assert found[0] <= want


def test_branch_and_bound_refuses():
    x, y = images(2, 3), jnp.zeros(2, int)
    with pytest.raises(ValueError, match="none"):
        certify.margin(jnp.tanh, x, y, eps=0.1, method="bab")
    fn, _ = network(1, (3, 12, 3))
    with pytest.raises(ValueError, match="jit"):
        jax.jit(lambda x: certify.margin(fn, x, y, eps=0.1, method="bab"))(x)


@pytest.mark.parametrize("norm", full_but(["linf", "l2", "l1"], ["l2"]))
def test_no_attack_breaks_what_is_proved(norm):
    fn, _ = network(2, (6, 16, 16, 3))
    x = images(64, 6)
    y = jnp.argmax(fn(x), 1)
    eps = {"linf": 0.05, "l2": 0.1, "l1": 0.2}[norm]
    step = {"eps": eps, "norm": norm}
    x_adv = attacks.pgd(
        fn, x, y, key=jax.random.key(0), step_size=eps / 4, steps=20, **step
    )
    logits = np.asarray(fn(x_adv))
    true = logits[np.arange(64), y]
    seen = true - np.where(np.eye(3)[np.asarray(y)] > 0, -np.inf, logits).max(1)
    found = {m: np.asarray(certify.margin(fn, x, y, method=m, **step)) for m in METHODS}
    for margin in found.values():
        assert (margin <= seen + 1e-6).all()
    assert (found["crown"] > 0).sum() > (found["ibp"] > 0).sum()
    assert (found["alpha_crown"] >= found["crown"] - 1e-5).all()
    assert (found["alpha_crown"] > found["crown"] + 1e-3).any()


METHODS = ("ibp", "crown_ibp", "crown", "alpha_crown")


def idle_unit(x):
    """Logits of x and of a ReLU that reads nothing: it is 1."""
    hidden = nn.relu(x @ jnp.array([[1.0, 0.0]]) + jnp.array([[0.0, 1.0]]))
    return jnp.concatenate([x, hidden[:, 1:]], 1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("method", ["ibp", "crown_ibp", "crown", "alpha_crown", "bab"])
def test_a_unit_that_reads_nothing_is_what_it_is(method, norm):
    """Its form of the input is 0, which has no direction and no length."""
    x, y = jnp.array([[0.5]]), jnp.array([0])
    found = certify.margin(idle_unit, x, y, eps=0.01, norm=norm, method=method)
    chex.assert_trees_all_close(found, jnp.array([-0.51]), atol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e20])
@pytest.mark.parametrize("eps", [1e-25, 0.3])
def test_forms_and_radii_of_any_size_have_margins_in_l2(size, eps):
    # Away from the walls of the box.
    x, y = 0.4 + 0.2 * images(2, 5), jnp.zeros(2, int)

    def fn(x):
        total = size * x.sum(1)
        return jnp.stack([total, jnp.zeros_like(total) - size - 1e-6], 1)

    least = size * (np.asarray(x, np.float64).sum(1) - eps * np.sqrt(5)) + size + 1e-6
    found = np.asarray(certify.margin(fn, x, y, eps=eps, norm="l2"), np.float64)
    assert (found <= least + 1e-6 * np.abs(least)).all()
    assert (found >= least - 1e-4 * np.abs(least) - size * 1e-3).all()

    def of(scale):
        worst = certify.worst_logits(
            lambda x: scale * fn(x), x, y, eps=eps, norm="l2", method="crown"
        )
        return worst.sum()

    assert np.isfinite(jax.grad(of)(1.0))


def test_margins_under_jit_and_vmap_over_eps():
    fn, _ = network(2)
    x = images(4, 6)
    y = jnp.argmax(fn(x), 1)
    radii = jnp.array([0.01, 0.1])
    one = jax.jit(lambda e: certify.margin(fn, x, y, eps=e))
    both = jax.vmap(one)(radii)
    for e, row in zip(radii, both, strict=True):
        np.testing.assert_allclose(row, certify.margin(fn, x, y, eps=e), atol=1e-5)
    per_row = certify.margin(fn, x, y, eps=jnp.array([0.01, 0.1, 0.1, 0.01]))
    np.testing.assert_allclose(per_row[0], both[0, 0], atol=1e-5)
    np.testing.assert_allclose(per_row[1], both[1, 1], atol=1e-5)
    masked = jnp.zeros((4, 6)).at[:, 0].set(0.1)
    assert (certify.margin(fn, x, y, eps=masked) >= both[1] - 1e-5).all()


def test_new_weights_do_not_go_unnoticed():
    weights = {"w": jnp.eye(3)}
    fn = lambda x: x @ weights["w"]  # noqa: E731
    x, y = jnp.array([[0.9, 0.5, 0.1]]), jnp.array([0])
    before = certify.margin(fn, x, y, eps=0.1)
    weights["w"] = 2 * jnp.eye(3)
    np.testing.assert_allclose(certify.margin(fn, x, y, eps=0.1), 2 * before, rtol=1e-4)


def test_radii_are_where_the_margin_is_proved():
    """Of a linear network half the margin; never more than was asked."""
    x, y = jnp.array([[0.7, 0.5], [0.55, 0.5], [0.4, 0.5]]), jnp.array([0, 0, 0])
    found = certify.radius(lambda z: z, x, y, eps=0.08, halvings=12)
    np.testing.assert_allclose(found, [0.08, 0.025, 0], atol=1e-4)
    fn, _ = network(2)
    x = images(8, 6)
    y = jnp.argmax(fn(x), 1)
    radii = certify.radius(fn, x, y, eps=0.2, norm="l2")
    assert (radii > 0).any()
    margins = certify.margin(fn, x, y, eps=radii, norm="l2")
    assert (margins[radii > 0] > 0).all()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "crwn"}, "crown"),
        ({"norm": "l0"}, "l0"),
        ({"x": jnp.full((2, 3), 3.0)}, "bounds"),
        ({"y": jnp.array([0, 7])}, "7"),
        ({"y": jnp.zeros(3, int)}, "label"),
        ({"eps": -1.0}, "eps"),
    ],
)
def test_mistakes_are_told(changes, told):
    given = {"x": jnp.full((2, 3), 0.5), "y": jnp.zeros(2, int), "eps": 0.1, **changes}
    with pytest.raises(ValueError, match=told):
        certify.margin(lambda z: z, **given)


def test_what_has_no_rule_is_named_with_its_line():
    fn = lambda z: jnp.sin(z)  # noqa: E731
    with pytest.raises(certify.Unsupported, match=r"'sin'.*test_margins.py:\d+"):
        certify.margin(fn, jnp.zeros((1, 3)), jnp.zeros(1, int), eps=0.1)


def test_the_line_is_that_of_the_function_of_a_captured_program():
    """Not one of JAX, nor of what calls the program again."""
    rows = jax.ShapeDtypeStruct((1, 3), jnp.float32)
    held = programs.capture(lambda z: jnp.sort(z @ jnp.ones((3, 3))), rows)
    fn = lambda z: held.fn(held.arrays, z)  # noqa: E731
    line = inspect.getsourcelines(
        test_the_line_is_that_of_the_function_of_a_captured_program
    )[1]
    with pytest.raises(certify.Unsupported, match=rf"test_margins.py:{line + 3} "):
        certify.margin(fn, jnp.zeros((1, 3)), jnp.zeros(1, int), eps=0.1)


@pytest.mark.parametrize("seconds", [-1, np.nan, "5", None])
def test_seconds_are_a_number(seconds):
    given = {"eps": 0.1, "method": "bab", "seconds": seconds}
    with pytest.raises((ValueError, TypeError), match="`seconds` must be"):
        certify.margin(jnp.abs, jnp.zeros((1, 3)), jnp.zeros(1, int), **given)


def test_half_precision_is_refused():
    x = jnp.zeros((1, 3), jnp.bfloat16)
    with pytest.raises(TypeError, match="bfloat16"):
        certify.margin(lambda z: z, x, jnp.zeros(1, int), eps=0.1)


def test_a_network_that_mixes_its_batch_is_refused():
    x, y = jnp.array([[0.1, 0.2], [0.7, 0.4], [0.3, 0.9]]), jnp.zeros(3, int)
    mixed = lambda z: z - z.mean(0, keepdims=True) + jnp.array([[0.3, 0.0]])  # noqa: E731
    calls = (
        lambda: certify.margin(mixed, x, y, eps=0.1),
        lambda: certify.radius(mixed, x, y, eps=0.1),
        lambda: certify.smooth(mixed, x, key=jax.random.key(0), sigma=0.1),
    )
    for call in calls:
        with pytest.raises(ValueError, match="depend on the others of its batch"):
            call()


def test_several_outputs_are_refused():
    """The first would be taken for the logits."""
    x, y = jnp.full((2, 3), 0.5), jnp.zeros(2, int)
    for several in (lambda z: {"aux": 10 * z, "logits": z}, lambda z: (z, z)):
        with pytest.raises(ValueError, match=r"must return logits \[B, K\], got"):
            certify.margin(several, x, y, eps=0.1)


def test_nothing_is_proved_of_a_radius_below_zero():
    x, y = jnp.array([[0.7, 0.5]]), jnp.array([0])
    run = jax.jit(lambda eps: certify.margin(lambda z: z, x, y, eps=eps))
    assert run(0.05) > 0
    assert run(-0.05) == -jnp.inf


def test_edges():
    fn, _ = network(2, (6, 16, 16, 3))
    x = images(4, 6)
    y = jnp.argmax(fn(x), 1)
    assert certify.margin(fn, x[:0], y[:0], eps=0.1).shape == (0,)
    radii = certify.radius(fn, x, y, eps=np.inf)
    chex.assert_tree_all_finite(radii)
    # Numbers that a backend may take for 0 prove nothing.
    tiny = certify.margin(lambda z: fn(z) * 1e-36, x, y, eps=0.001)
    assert (certify.margin(fn, x, y, eps=0.001) > 0).any()
    assert (tiny <= 0).all()


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_both_modes_of_derivatives_agree(method):
    """Of a convolution of one channel too, which is computed in a way of its own."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        kernel, dense = (
            jnp.asarray(rng.normal(size=s)) for s in [(3, 3, 1, 4), (4, 3)]
        )
        x, y = jnp.asarray(rng.random((2, 5, 5, 1))), jnp.array([0, 2])

        def total(kernel):
            def logits(x):
                z = jax.lax.conv_general_dilated(
                    x,
                    kernel,
                    (2, 2),
                    "SAME",
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )
                return nn.tanh(z).mean((1, 2)) @ dense

            return certify.margin(logits, x, y, eps=0.05, method=method).sum()

        way = jnp.asarray(rng.normal(size=kernel.shape))
        _, forwards = jax.jvp(total, (kernel,), (way,))
        backwards = (jax.grad(total)(kernel) * way).sum()
        small = 1e-6 * way
        measured = (total(kernel + small) - total(kernel - small)) / 2e-6
    np.testing.assert_allclose([forwards, backwards], measured, rtol=1e-6)


def test_what_decides_on_the_host_has_no_derivatives():
    x, y, weights = jnp.full((2, 3), 0.5), jnp.zeros(2, int), jnp.eye(3)

    def proof(weights):
        return certify.margin(
            lambda z: nn.relu(z) @ weights, x, y, eps=0.1, method="bab"
        )

    def smoothed(weights):
        key = jax.random.key(0)
        return certify.smooth(lambda z: z @ weights, x, key=key, sigma=0.1, n=10).radii

    for call in (proof, smoothed):
        with pytest.raises(
            ValueError, match=r"not for jax\.jit, nor has it derivatives"
        ):
            jax.grad(lambda w, call=call: call(w).sum())(weights)
