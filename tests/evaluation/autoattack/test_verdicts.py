"""Verdicts depend on the logits that decide, and on nothing else of them."""

import copy
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from jaxrobust import attacks, evaluation, losses, parallel

KEY = jax.random.key(0)
EPS = {"linf": 0.1, "l2": 0.5, "l1": 1.5}


class Digits:
    """A small network trained on digits, which half of the images withstand."""

    def __init__(self):
        digits = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.target))
        x = (digits.images[order] / 16).astype(np.float32)[..., None]
        y = digits.target[order].astype(np.int32)
        self.x, self.y = x[1400:1416], y[1400:1416]
        one, two = jax.random.split(KEY)
        self.params = (
            jax.random.normal(one, (64, 64)) * 0.18,
            jax.random.normal(two, (64, 10)) * 0.18,
        )
        tx = optax.adam(3e-3)
        rows = np.random.default_rng(0).integers(0, 1400, (300, 128))

        def step(carry, batch):
            params, state = carry

            def loss(p):
                return losses.cross_entropy(self.of(p, batch[0]), batch[1]).mean()

            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        carry = self.params, tx.init(self.params)
        batches = jnp.asarray(x[rows]), jnp.asarray(y[rows])
        self.params = jax.jit(lambda c, b: jax.lax.scan(step, c, b)[0])(carry, batches)[
            0
        ]

    @staticmethod
    def of(params, x):
        w, v = (p.astype(x.dtype) for p in params)
        return jax.nn.relu(x.reshape(len(x), -1) @ w) @ v

    def __call__(self, x):
        return self.of(self.params, x)

    def robust(self, fn, norm="linf"):
        return evaluation.autoattack(
            fn, self.x, self.y, key=KEY, eps=EPS[norm], norm=norm, slots=16,
            progress=False, mesh=parallel.make_mesh(1),
        )  # fmt: skip

    def after_pgd(self, fn, norm="linf"):
        x, y = jnp.asarray(self.x), jnp.asarray(self.y)
        with warnings.catch_warnings():  # a softmax of large logits is flat
            warnings.simplefilter("ignore", attacks.RobustnessWarning)
            found = attacks.pgd(
                fn, x, y, key=KEY, eps=EPS[norm], step_size=EPS[norm] / 8, steps=100,
                norm=norm,
            )  # fmt: skip
        return np.asarray(fn(found).astype(jnp.float32).argmax(1) == self.y)


@pytest.fixture(scope="module")
def digits():
    return Digits()


@pytest.fixture(scope="module")
def bare(digits):
    """The verdicts on the network as it is, by norm, each found once."""
    found = {}

    def of(norm):
        if norm not in found:
            found[norm] = digits.robust(digits, norm).robust
        return found[norm]

    return of


def padded(value):
    return lambda z: jnp.pad(z, ((0, 0), (0, 2)), constant_values=value)


# What is done to the logits, and whether that is exact.
CHANGES = {
    "bfloat16": (lambda z: z.astype(jnp.bfloat16), False),
}
MORE = {
    "shift 1e6": (lambda z: z + 1e6, False),
    **{f"shift {s:g}": (lambda z, s=s: z + s, False) for s in (1e3, -1e5, 1e7)},
    **{f"scale {s:g}": (lambda z, s=s: z * s, False) for s in (1e-6, 1e-3, 1e6)},
    **{f"padding {v:g}": (padded(v), True) for v in (-30, -1e9, -1e30, -jnp.inf)},
    "float16": (lambda z: z.astype(jnp.float16), False),
    "padded float16": (lambda z: padded(-1e9)(z).astype(jnp.float16), False),
}
CASES = [
    *(pytest.param(name, "linf", id=name) for name in CHANGES),
    *(
        pytest.param(name, norm, id=f"{name} {norm}", marks=pytest.mark.full)
        for name, norm in [
            *((name, "linf") for name in MORE),
            *((name, norm) for name in CHANGES for norm in ("l2", "l1")),
        ]
    ),
]


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_verdicts_are_of_the_logits_that_decide(digits, bare, name, norm):
    change, exact = {**CHANGES, **MORE}[name]

    def fn(x):
        return change(digits(x))

    result = digits.robust(fn, norm)
    assert 0 < result.robust.sum() < result.clean.sum()
    assert not (result.robust & ~digits.after_pgd(fn, norm)).any()
    assert not [flag for flag in result.flags if flag["severe"]]
    differ = int((result.robust != bare(norm)).sum())
    assert differ <= (0 if exact else 1)
    names = {flag["name"] for flag in result.flags}
    assert ("coarse_logits" in names) == (name == "shift 1e+07")


@pytest.mark.full
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("value", [None, -30.0, -1e9])
def test_two_classes_whose_logits_are_tiny(digits, norm, value):
    """Odd or even, where a cross-entropy of .69 hides differences of 1e-7."""
    odd = jnp.arange(10) % 2 == 1

    def two(x):
        z = digits(x)
        best = [jnp.where(odd == side, z, -1e9).max(1) for side in (False, True)]
        return jnp.stack(best, 1)

    def tiny(x):
        z = 1e-6 * two(x)
        return z if value is None else padded(value)(z)

    odd_digits = copy.copy(digits)
    odd_digits.y = digits.y % 2
    result = odd_digits.robust(tiny, norm)
    assert 0 < result.robust.sum() < result.clean.sum()
    assert not (result.robust & ~odd_digits.after_pgd(tiny, norm)).any()
    differ = result.robust != odd_digits.robust(two, norm).robust
    assert differ.sum() <= 1
    assert not [flag for flag in result.flags if flag["severe"]]


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_network_that_casts_inside(digits, bare, dtype):
    def fn(x):
        return digits(x.astype(dtype))

    result = digits.robust(fn)
    assert not [flag for flag in result.flags if flag["severe"]]
    assert not (result.robust & ~digits.after_pgd(fn)).any()
    # bfloat16 images are 1/256 apart: another network, of which more points are asked.
    assert (result.robust != bare("linf")).sum() <= 2


def test_a_rejected_success_is_told_and_the_attack_goes_on(linear):
    """In the attack's batch one class has .05 more than in the second look's."""
    model = linear(3, count=12)
    more = jnp.asarray([0.05, 0, 0])

    def fn(x):
        return model(x) + (more if len(x) != 4 else 0 * more)[None]

    distance = model.smallest_ratio("linf")
    eps = float(np.median(distance))
    result = evaluation.autoattack(
        fn, model.x, model.y, key=KEY, eps=eps, slots=8, progress=False,
        bounds=(-9.0, 9.0), mesh=parallel.make_mesh(1),
    )  # fmt: skip
    sure = np.abs(distance - eps) > 0.02 * eps
    sure[0] = False
    chex.assert_trees_all_equal(result.robust[sure], (distance > eps)[sure])
    (flag,) = (f for f in result.flags if f["name"] == "unconfirmed_adversarials")
    assert flag["values"]["number"] >= flag["values"]["images"]
    # Without the look some would not count as robust, and that is said.
    predicted = np.asarray(model(jnp.asarray(result.x_adv))).argmax(1)
    moved = (result.x_adv != model.x).any((1, 2, 3))
    assert (predicted[moved] != model.y[moved]).all()


@jax.jit
def gradients(logits):
    """Of the losses that attacks ascend, with class 1 as the true one."""
    y = jnp.asarray([1])
    return [
        jax.grad(lambda z, f=f: f(losses.comparable(z), y).sum())(logits)
        for f in (losses.cross_entropy, losses.margin, losses.dlr)
    ]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@settings(max_examples=20, derandomize=True)
@given(st.lists(st.integers(-4000, 4000), min_size=4, max_size=4))
def test_classes_that_cannot_win_change_nothing(dtype, values):
    """Argmax, losses and gradients are those without them; ties, too."""
    z = (np.asarray([values]) / 80).astype(jnp.dtype(dtype))
    more = np.asarray([[-np.inf, -np.inf]], z.dtype)
    wide = np.concatenate([z, more], 1)
    out = np.asarray(losses.comparable(jnp.asarray(wide)))
    chex.assert_type(out, np.float32)
    chex.assert_tree_all_finite(out)
    assert out.argmax() == z.argmax()
    chex.assert_trees_all_equal(out[:, :4], z.astype(np.float32))
    for one, other in zip(gradients(z), gradients(wide), strict=True):
        chex.assert_trees_all_equal(one, other[:, :4])
        assert not np.asarray(other[:, 4:]).any()


@pytest.mark.parametrize(
    "row",
    [[0, jnp.nan, 1], [0, jnp.inf, 1], [jnp.nan, -jnp.inf, 1], [-jnp.inf] * 3],
)
def test_what_is_no_prediction_stays_none(row):
    out = losses.comparable(jnp.asarray([row, [0, -jnp.inf, 2]], jnp.float16))
    assert not np.isfinite(out[0]).all()
    chex.assert_trees_all_equal(out[1], np.asarray([0, np.float32(-1e10), 2]))


def test_large_logits_are_no_padding():
    row = jnp.asarray([[3e13, -2e13, -jnp.inf, -1e30]], jnp.float32)
    chex.assert_trees_all_close(
        losses.comparable(row), np.asarray([[3e13, -2e13, -3e15, -3e15]]), rtol=1e-7
    )


def test_gradients_that_are_not_numbers_are_told():
    """The logarithm of a probability that has vanished has none."""
    x = jnp.asarray([[[[0.0]]], [[[1.0]]]])

    def fn(x):
        z = x.reshape(-1, 1) * jnp.asarray([[900.0, -900.0]])
        return jnp.log(jax.nn.softmax(z))

    with pytest.warns(attacks.RobustnessWarning, match="NaN for 1 of 2 images"):
        attacks.pgd(
            fn, x, jnp.asarray([0, 0]), eps=0.1, step_size=0.1, steps=2,
            random_start=False,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_spacing(dtype):
    values = np.asarray([0, 1e-30, 0.1, 1, 1.5, 2, 100, -3e4], dtype)
    expected = np.maximum(np.spacing(np.abs(values)), np.finfo(dtype).tiny)
    found = losses.spacing(jnp.asarray(values, jnp.float32), dtype)
    chex.assert_trees_all_equal(found, expected.astype(np.float32))
