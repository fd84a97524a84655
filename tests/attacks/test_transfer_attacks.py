"""Attacks that are to fool other models, against torchattacks and in closed form."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, models, zoo
from jaxrobust.attacks._objective import Problem
from jaxrobust.attacks._views import Mixed, Resized, Scaled, Views
from tests.marks import full_but

STEPS = {"eps": 8 / 255, "step_size": 2 / 255, "steps": 10}
CASES = {
    "nim": ("nim", {}),
    "sim": ("sim", {"nesterov": True}),
    "vmim": ("vmim", {"reach": 0.0, "neighbours": 2}),
    "vnim": ("vnim", {"reach": 0.0, "neighbours": 2}),
    "tim_gaussian": ("tim", {}),
    "tim_uniform": ("tim", {"kernel": "uniform", "length": 7}),
    "tim_linear": ("tim", {"kernel": "linear", "length": 5}),
}
X = jax.random.uniform(jax.random.key(0), (4, 6, 5, 2))
Y = jnp.arange(4) % 3
W = jax.random.normal(jax.random.key(1), (60, 3))
KEY = jax.random.key(2)


def net(x):
    return jnp.tanh(x.reshape(len(x), -1) @ W)


def problem(x, **given):
    return Problem(net, x, Y, 0.1, 0.03, **given)


@pytest.mark.parametrize("case", full_but(CASES, ("tim_gaussian",)))
def test_torchattacks(golden, case):
    name, options = CASES[case]
    data, found = golden.load("ta_mifgsm"), golden.load("ta_transfer")
    with jax.enable_x64(True):
        x = jnp.asarray(golden.nhwc(data["x"]), jnp.float64)
        attack = attacks.get(name, **STEPS, **options)
        x_adv = attack(golden.net(data), x, jnp.asarray(data["y"]), KEY)
    stable = found[f"stable/{case}"]
    assert stable.sum() >= 12
    expected = golden.nhwc(found[f"adv/{case}"])
    chex.assert_trees_all_close(
        np.asarray(x_adv)[stable], expected[stable], rtol=0, atol=1e-6
    )


@pytest.mark.full
@pytest.mark.parametrize("name", full_but(["dim", "vmim", "vnim"], ["dim"]))
def test_torchattacks_as_often(golden, name):
    """Of those that draw at random, as many images are left right."""
    model, variables, card = zoo.load("digits_ssp_standard")
    x, y = zoo.images(card)
    logits_fn = models.logits_fn(model, variables)
    options = {"resize": 0.5} if name == "dim" else {}
    attack = attacks.get(name, eps=0.1, step_size=0.02, steps=10, **options)
    left = [(logits_fn(attack(logits_fn, x, y, jax.random.key(seed))).argmax(1) == y)
            for seed in range(3)]  # fmt: skip
    theirs = golden.load("ta_transfer")[f"rate/{name}"].mean()
    assert abs(np.mean(left) - theirs) < 0.03


@pytest.mark.parametrize("size", [9, 13, 15])
def test_images_shrink_as_torch_shrinks_them(golden, size, monkeypatch):
    x = jnp.asarray(golden.nhwc(golden.load("ta_mifgsm")["x"]))[:1]
    drawn = iter([size, (16 - size) // 2, 16 - size])
    monkeypatch.setattr(jax.random, "randint", lambda *_: jnp.int32(next(drawn)))
    small = Resized(0.5, 1.0)(problem(x), x, jax.random.split(KEY, 1), 0)
    expected = golden.nhwc(golden.load("ta_transfer")[f"small/{size}"])
    chex.assert_trees_all_close(small, expected, rtol=0, atol=1e-5)


def test_an_image_that_shrinks_is_all_there():
    x = jnp.ones((200, 6, 5, 1))
    small = Resized(0.5, 0.5)(problem(x), x, jax.random.split(KEY, 200), 0)
    rows, columns = ((small > 0.5).any(axis=a).sum(1)[:, 0] for a in (2, 1))
    chex.assert_trees_all_close(small.sum((1, 2, 3)), rows * columns, rtol=1e-5)
    assert {(int(r), int(c)) for r, c in zip(rows, columns, strict=True)} == {
        (3, 2), (4, 3), (5, 4), (6, 5)
    }  # fmt: skip
    touched = small[rows < 6]
    for edge in (touched[:, 0], touched[:, -1], touched[:, :, 0], touched[:, :, -1]):
        assert 0.1 < (edge.max((1, 2)) > 0.5).mean() < 0.7


def test_black_is_the_lower_bound():
    x, keys = X * 4 - 2, jax.random.split(KEY, 4)
    there = problem(x, bounds=(-2.0, 2.0))
    for view in (Scaled(3), Resized(0.5, 1.0), Mixed(2, 0.2)):
        wide = view(there, x, keys, 1)
        plain = view(problem(X), X, keys, 1)
        chex.assert_trees_all_close(wide, 4 * plain - 2, rtol=0, atol=1e-5)


def test_every_copy_of_one_view_meets_every_copy_of_the_next():
    pool = jnp.stack([jnp.full((6, 5, 2), v) for v in (0.0, 1.0)])
    keys = jax.random.split(KEY, 4)
    views = Views((Mixed(3, 0.5), Scaled(2)))
    seen = [views(problem(X, others=pool), X, keys, jnp.int32(c)) for c in range(6)]
    assert views.copies == 6
    for c in range(3):
        chex.assert_trees_all_close(seen[c + 3], seen[c] / 2, rtol=1e-6)
        added = np.asarray(seen[c] - X).reshape(4, -1)
        assert np.all(np.isclose(added, 0, atol=1e-6) | np.isclose(added, 0.5))


def test_any_of_them_is_momentum_without_its_change():
    same = {"eps": 0.1, "step_size": 0.03, "steps": 4, "key": KEY, "norm": "l2"}
    plain = attacks.mim(net, X, Y, **same)
    for attack, off in {
        attacks.nim: {"nesterov": False},
        attacks.vnim: {"nesterov": False, "neighbours": 0},
        attacks.dim: {"share": 0.0},
        attacks.tim: {"length": 1},
        attacks.sim: {"scales": 1},
        attacks.admix: {"weight": 0.0, "scales": 1},
    }.items():
        x_adv = attack(net, X, Y, **same, **off)
        chex.assert_trees_all_close(x_adv, plain, rtol=0, atol=1e-6)


def test_they_combine():
    same = {"eps": 0.1, "step_size": 0.03, "steps": 4, "key": KEY}
    all_of_them = {"kernel": "linear", "length": 3, "nesterov": True, "scales": 2,
                   "mixed": 2, "neighbours": 2, "resize": 0.6}  # fmt: skip
    one = attacks.dim(net, X, Y, **same, **all_of_them)
    chex.assert_trees_all_equal(attacks.vmim(net, X, Y, **same, **all_of_them), one)
    assert jnp.abs(one - attacks.dim(net, X, Y, **same)).max() > 0.01


def test_new_images_to_mix_with_neither_recompile_nor_go_unnoticed(compilations):
    given = {"eps": 0.3, "step_size": 0.1, "steps": 3, "key": KEY, "scales": 1}
    partial = jax.tree_util.Partial(net)
    pools = [
        np.asarray(jax.random.uniform(jax.random.key(s), (3, 6, 5, 2))) for s in (3, 4)
    ]
    first = attacks.admix(partial, X, Y, others=pools[0], weight=3.0, **given)
    compiled = compilations()
    second = attacks.admix(partial, X, Y, others=pools[1], weight=3.0, **given)
    assert compilations() == compiled
    assert jnp.abs(first - second).max() > 1e-3


def test_a_loss_of_the_images_sees_the_views_too():
    seen = []

    def fn(x, y):
        jax.debug.callback(lambda z: seen.append(float(z.max())), x)
        return net(x)[:, 0]

    attacks.sim(net, X, Y, eps=1e-3, step_size=1e-4, steps=1, scales=3,
                loss=attacks.on_input(fn))  # fmt: skip
    jax.effects_barrier()
    top = float(X.max())
    assert {round(top / s, 2) for s in (1, 2, 4)} <= {round(s, 2) for s in seen}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"norm": "l1"}, ValueError, "`norm` must be 'linf' or 'l2' here, got 'l1'"),
        ({"kernel": "gaussian", "length": 4}, ValueError, "`length`.*odd, got 4"),
        ({"kernel": "gausian"}, ValueError, "gaussian"),
        ({"resize": 0.0}, ValueError, "`resize` must be above 0 and at most 1"),
        ({"others": np.ones((3, 6, 6, 2))}, ValueError, "`others` must be images"),
        ({"others": np.ones((3, 6, 5, 2), int)}, TypeError, "`others` must be float"),
        ({"key": None}, ValueError, "the size of the images needs one"),
        ({"neighbours": -1}, ValueError, "`neighbours`"),
    ],
)  # fmt: skip
def test_mistakes_are_named(options, error, message):
    given = {"eps": 0.1, "step_size": 0.1, "steps": 1, "key": KEY} | options
    with pytest.raises(error, match=message):
        attacks.dim(net, X, Y, **given)


def test_rows_without_height_and_width_are_refused():
    flat = X.reshape(4, -1)
    given = {"eps": 0.1, "step_size": 0.1, "steps": 1, "key": KEY}
    with pytest.raises(ValueError, match="`resize` needs images"):
        attacks.dim(net, flat, Y, **given)
    with pytest.raises(ValueError, match="`kernel` needs images"):
        attacks.tim(net, flat, Y, **given)
    for attack in (attacks.admix, attacks.vnim):
        assert jnp.abs(attack(net, flat, Y, **given) - flat).max() > 0.05
