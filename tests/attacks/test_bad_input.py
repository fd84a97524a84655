"""What users bring, for every attack: bounds, radii, dtypes, labels, keys."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, evaluation, losses, threat
from jaxrobust.attacks import registry
from tests.attacks.small import needs_key, small
from tests.marks import full_but

KEY = jax.random.key(7)
X = jax.random.uniform(jax.random.key(1), (4, 5, 5, 2))
W = jax.random.normal(jax.random.key(0), (50, 3))
WIDE = 1e30
LENGTHS = {"linf": np.inf, "l2": 2, "l1": 1}
TRAITS = registry.table()
# Radii per value are of Linf, and of attacks that look inside a ball.
BALL = [n for n, of in TRAITS.items() if of.goal == "radius" and "linf" in of.norms]
# They share their code with others.
ALIKE = ("admix", "dim", "mixed_pgd", "multi_targeted", "nes", "nim", "sim", "simba")
ALIKE += ("tim", "vmim", "vnim")
every = pytest.mark.parametrize("name", TRAITS)


def but(names, *later):
    """Those that share all code with others are left to `-m full`."""
    return full_but(names, [name for name in names if name not in later])


def net(x):
    return x.reshape(x.shape[0], -1).astype(jnp.float32) @ W


Y = jnp.argmax(net(X), axis=1)


def run(name, x=X, y: Any = Y, key=KEY, **options):
    return attacks.get(name, **({"eps": 0.1} | small(name, 0.1) | options))(
        net, x, y, key
    )


def moved(x_adv, x):
    return np.abs(np.asarray(x_adv, np.float64) - np.asarray(x, np.float64))


BAD = [
    ({"bounds": (-np.inf, np.inf)}, ValueError, "`bounds` must be finite"),
    ({"bounds": (-WIDE, WIDE)}, ValueError, "`bounds` must be finite and within 1e"),
    ({"bounds": (0.0, float("nan"))}, ValueError, "`bounds` must be .*nan"),
    ({"bounds": (1.0, 0.0)}, ValueError, "`bounds` must be .* low < high"),
    ({"bounds": (1e5, 1e5 + 1e-3)}, ValueError, "`bounds` must be .* low < high"),
    ({"bounds": (False, True)}, ValueError, "`bounds` must be .* two numbers"),
    ({"bounds": ("0", "1")}, ValueError, "`bounds` must be .* two numbers"),
    ({"bounds": (np.zeros(2), np.ones(2))}, ValueError, "`bounds` must be .* two num"),
    ({"bounds": np.array([0, 1])}, ValueError, "`bounds` must be .* two numbers"),
    ({"eps": float("nan")}, ValueError, "`eps` must be at least 0 and not NaN"),
    ({"eps": -1}, ValueError, "`eps` must be at least 0"),
    ({"eps": True}, TypeError, "`eps` must be a number"),
    ({"eps": "8/255"}, TypeError, "`eps` must be a number.*'8/255'.*configs"),
    ({"eps": 1j}, TypeError, "`eps` must be a number"),
    (
        {"eps": np.full(2, 0.1)},
        ValueError,
        r"`eps` must be .* \(4,\).*got shape \(2,\)",
    ),
    ({"eps": np.full(3, 0.1)}, ValueError, r"`eps` must be .* got shape \(3,\)"),
    ({"eps": np.full((4, 1), 0.1)}, ValueError, r"`eps` must be .* got shape \(4, 1\)"),
    ({"eps": np.ones((1, 1, 1, 3))}, ValueError, r"`eps` must be .*\(1, 1, 1, 3\)"),
    ({"x": (X * 255).astype(jnp.uint8)}, TypeError, "`x` must be floating.*uint8"),
    ({"x": X.astype(int)}, TypeError, "`x` must be floating"),
    ({"x": X * 1j}, TypeError, "`x` must be floating"),
    ({"x": X.astype(jnp.float8_e4m3fn)}, TypeError, "`x` must be floating.*float8"),
    ({"x": X[:0], "y": Y[:0]}, ValueError, "`x` holds no image"),
    ({"x": X.at[1].set(jnp.inf)}, ValueError, "`x` leaves `bounds`"),
    ({"x": X.at[1].set(jnp.nan)}, ValueError, "`x` is not finite"),
    ({"y": Y.astype(float)}, TypeError, "`y` must hold integer labels"),
    ({"y": Y > 0}, TypeError, "`y` must hold integer labels, got bool"),
    ({"y": np.full(4, np.nan)}, TypeError, "`y` must hold integer labels"),
    ({"y": [0, 1, 2, 0]}, TypeError, "`y` must hold integer labels, got list"),
    ({"y": jnp.eye(3, dtype=int)[Y]}, ValueError, r"`y` must hold one label.*argmax"),
    ({"y": Y[:3]}, ValueError, "`y` must hold one label per image"),
    ({"y": np.full(4, 2**32 + 1)}, ValueError, "`y` holds labels from 4294967297"),
    ({"y": np.full(4, 2**63, np.uint64)}, ValueError, "`y` holds labels from 92233"),
    ({"y": np.full(4, 3, np.uint8)}, ValueError, "`y` holds labels from 3 to 3"),
    ({"y": np.full(4, -1)}, ValueError, "`y` holds labels from -1"),
    ({"key": jax.random.PRNGKey(0)}, TypeError, "`key` must be a new-style key"),
    ({"key": jax.random.split(KEY, 3)}, ValueError, r"`key` must be .*\(3,\)"),
]


@every
def test_what_cannot_be_is_refused_by_name(name):
    for changes, error, message in BAD:
        if "key" in changes and not needs_key(name):
            continue
        with pytest.raises(error, match=message):
            run(name, **changes)


@pytest.mark.parametrize("name", ["bim", "mim", "pgd"])
def test_steps_are_checked_as_radii_are(name):
    for bad, error, message in (
        (float("inf"), ValueError, "`step_size` must be finite"),
        (True, TypeError, "`step_size` must be a number"),
        ("2/255", TypeError, "`step_size` must be a number.*configs"),
        (np.ones(2), ValueError, r"`step_size` must be .* got shape \(2,\)"),
    ):
        with pytest.raises(error, match=message):
            run(name, step_size=bad)


@pytest.mark.parametrize(
    "name",
    but(
        TRAITS,
        "bim",
        "mim",
        "apgd_targeted",
        "uniform_noise",
        "cw_linf",
        "deepfool",
        "jsma",
        "zoo",
        "boundary",
        "one_pixel",
        "pixle",
        "rays",
        *ALIKE,
    ),
)
def test_half_precision_stays_in_ball_and_box(name):
    """And the model is asked about what is returned, in its dtype."""
    dtype = jnp.float16 if name in ("pgd", "fab") else jnp.bfloat16
    z = X.astype(dtype)
    norm = registry.parameters(name)["norm"].default
    eps = 3 if norm in threat.SPARSE else 8 / 255
    x_adv = run(name, x=z, y=jnp.argmax(net(z), axis=1), eps=eps)
    chex.assert_type(x_adv, dtype)
    chex.assert_tree_all_finite(np.asarray(x_adv, np.float64))
    if norm in threat.SPARSE:
        found = np.asarray(threat.distance(x_adv, z, norm=norm))
    else:
        delta = moved(x_adv, z).reshape(4, -1)
        found = np.linalg.norm(delta, LENGTHS[norm], axis=1)
    assert found.max() <= eps + 1e-6
    assert float(x_adv.min()) >= 0
    assert float(x_adv.max()) <= 1


def test_zoo_in_half_precision_needs_a_wider_difference():
    with pytest.raises(ValueError, match=r"`h` = 0\.0001 is less than.*bfloat16"):
        run("zoo", x=X.astype(jnp.bfloat16), h=1e-4)


@pytest.mark.parametrize(
    "name", but(BALL, "bim", "mim", "apgd_targeted", "uniform_noise", *ALIKE)
)
def test_radii_per_channel_and_per_value(name):
    """Channels and pixels of radius 0 do not move, others by theirs."""
    channels = np.array([0.0, 0.2], np.float32).reshape(1, 1, 1, 2)
    mask = (np.arange(25).reshape(1, 5, 5, 1) % 2 * 0.1).astype(np.float32)
    values = np.broadcast_to(channels * mask, X.shape) * 10
    for eps in (channels, mask, values) if name == "pgd" else (values,):
        x_adv = run(name, eps=eps)
        full = np.broadcast_to(eps, X.shape)
        assert (moved(x_adv, X) <= full + 1e-6).all()
        chex.assert_trees_all_equal(
            np.asarray(x_adv)[full == 0], np.asarray(X)[full == 0]
        )
        assert (moved(x_adv, X) > 0).any()


@pytest.mark.parametrize(
    "name",
    but(
        BALL,
        "fgsm",
        "bim",
        "pgd",
        "apgd",
        "apgd_targeted",
        "spsa",
        "uniform_noise",
        *ALIKE,
    ),
)
def test_equal_radii_of_all_shapes_are_one_radius(name):
    expected = run(name, eps=0.1)
    for shape in ((1, 1, 1, 1), (4, 1, 1, 1), (1, 1, 1, 2)):
        x_adv = run(name, eps=np.full(shape, 0.1, np.float32))
        chex.assert_trees_all_close(x_adv, expected, rtol=0, atol=1e-6)


@every
def test_radii_per_channel_are_of_linf_and_of_balls(name):
    for norm in TRAITS[name].norms:
        if (norm == "linf") == (name in BALL):
            continue
        with pytest.raises(ValueError, match=r"`eps` of shape .* per channel or pixel"):
            run(name, norm=norm, eps=np.full((1, 1, 1, 2), 0.1))


def test_radii_per_channel_under_jit():
    channels = jnp.array([0.0, 0.1]).reshape(1, 1, 1, 2)
    jitted = jax.jit(lambda eps, step_size: run("pgd", eps=eps, step_size=step_size))
    expected = run("pgd", eps=channels, step_size=channels / 4)
    chex.assert_trees_all_close(
        jitted(channels, channels / 4), expected, rtol=0, atol=1e-6
    )
    with pytest.raises(ValueError, match=r"`eps` must be .*got shape \(2,\)"):
        jitted(jnp.ones(2), channels)


SHARED = ("bim", "mim", "pgd", "apgd_targeted", "spsa", "square", "uniform_noise")
IN_BALLS = [(n, norm) for n in BALL for norm in threat.NORMS if norm in TRAITS[n].norms]


@pytest.mark.parametrize(
    ("name", "norm"),
    full_but(IN_BALLS, [one for one in IN_BALLS if one[0] not in (*SHARED, *ALIKE)]),
)
def test_a_radius_beyond_the_box_is_the_box(name, norm):
    width = {"linf": 1.0, "l2": 50**0.5, "l1": 50.0}[norm]
    expected = run(name, norm=norm, eps=width)
    for eps in (np.inf, 1e30, 100):
        x_adv = run(name, norm=norm, eps=eps)
        assert ((x_adv >= 0) & (x_adv <= 1)).all()
        chex.assert_trees_all_close(x_adv, expected, rtol=0, atol=1e-6)


def test_wide_and_shifted_boxes_work():
    for low, high in ((0.0, 255.0), (-1.0, 1.0)):
        x = low + (high - low) * X
        x_adv = run("pgd", x=x, y=jnp.argmax(net(x), axis=1), eps=8.0, loss="margin",
                    bounds=(np.float32(low), jnp.asarray(high)))  # fmt: skip
        assert moved(x_adv, x).max() <= 8 + 1e-6 * (high - low)


@pytest.mark.parametrize("y", [
    np.full(4, 2**32 + 1), np.full(4, 2**63, np.uint64), np.full(4, -1),
    np.full(4, 3, np.int8), np.ones(4), np.ones(4, bool), np.full(4, np.nan),
    np.eye(4, 3, dtype=np.int32), np.ones(3, np.int32),
])  # fmt: skip
def test_labels_are_checked_before_they_are_cast(y):
    """By losses, AutoAttack and the diagnosis; also where images are traced."""
    options: dict[str, Any] = {"key": KEY, "eps": 0.1}
    for call in (
        lambda: losses.cross_entropy(net(X), y),
        lambda: losses.margin(net(X), y),
        lambda: evaluation.autoattack(net, X, y, progress=False, **options),
        lambda: evaluation.diagnose(net, X, y, steps=1, queries=1, **options),
        lambda: jax.jit(lambda x: attacks.fgsm(net, x, y, eps=0.1))(X),
    ):
        with pytest.raises((ValueError, TypeError), match="`y`"):
            call()


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.uint64, np.int16])
def test_labels_of_all_integer_types_are_the_same(dtype):
    given = np.asarray(Y).astype(dtype)
    chex.assert_trees_all_equal(run("pgd", y=given), run("pgd"))


@pytest.mark.parametrize(("changes", "message"), [
    ({"eps": np.full(4, 0.1)}, r"`eps` must be one number .* \(4,\)"),
    ({"eps": float("inf")}, "`eps` must be finite"),
    ({"bounds": (-np.inf, np.inf)}, "`bounds` must be finite"),
    ({"x": X.astype(jnp.bfloat16)}, "`x` must be float32 or float64"),
    ({"x": X[:0], "y": Y[:0]}, "`x` holds no image"),
])  # fmt: skip
def test_evaluations_refuse_the_same(changes, message):
    given: dict[str, Any] = {
        "x": X,
        "y": Y,
        "eps": 0.1,
        "bounds": (0.0, 1.0),
        "key": KEY,
    } | changes
    few: list[tuple[Any, dict[str, Any]]] = [
        (evaluation.autoattack, {"progress": False}),
        (evaluation.diagnose, {"steps": 1, "queries": 1}),
    ]
    for function, options in few:
        with pytest.raises((ValueError, TypeError), match=message):
            function(net, **given, **options)


@pytest.mark.parametrize("dtype", ["int32", "bool", "float8_e4m3fn"])
@pytest.mark.parametrize("call", [attacks.pgd, attacks.square, evaluation.autoattack])
def test_logits_are_floats_that_can_be_compared(call, dtype):
    def votes(x):
        return x.reshape(len(x), -1)[:, :2].astype(dtype)

    options: Any = {"step_size": 0.1, "steps": 1} if call is attacks.pgd else {}
    x, y = np.ones((2, 3, 3, 1), np.float32), np.zeros(2, np.int32)
    with pytest.raises(TypeError, match=f"`logits` must be a .*got {dtype}: .*float32"):
        call(votes, x, y, key=jax.random.key(0), eps=0.1, **options)


def test_a_function_of_numpy_is_told_what_to_do():
    def logits_fn(x):
        return np.asarray(x).reshape(len(x), -1)[:, :3]

    with pytest.raises(TypeError) as error:
        attacks.fgsm(logits_fn, jnp.full((2, 4, 4, 1), 0.5), jnp.zeros(2, int), eps=0.1)
    assert "jax.pure_callback" in "".join(error.value.__notes__)
