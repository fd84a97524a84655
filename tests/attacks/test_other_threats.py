"""Attacks whose threat is no ball: what each must do, and what each may do."""

import colorsys
import functools
import itertools
import pathlib
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, losses
from jaxrobust.attacks import registry
from jaxrobust.threat import colour, spatial, union
from tests.marks import full_but

SMALL = {
    "elastic": {"steps": 6},
    "hsv": {"draws": 12},
    "msd": {"linf": 0.05, "l2": 0.4, "l1": 2.0, "steps": 6},
    "patch": {"side": 3, "places": 4, "steps": 6},
    "recolor": {"change": 0.1, "colours": 3, "steps": 6},
    "rotate_translate": {"angles": 3, "shifts": 3, "translation": 2.0},
    "rotate_translate_gradient": {"steps": 5, "restarts": 2},
    "stadv": {"steps": 6},
}
NAMES = tuple(registry.other_threats())
CHEAP = ("msd", "rotate_translate")
KEY = jax.random.key(7)
X = jax.random.uniform(jax.random.key(1), (4, 6, 6, 3))
W = 4 * jax.random.normal(jax.random.key(0), (108, 3)) / 108**0.5
Y = jnp.argmax(X.reshape(4, -1) @ W, axis=1)
every = pytest.mark.parametrize("name", NAMES)
quick = pytest.mark.parametrize("name", full_but(NAMES, CHEAP))


def net(x):
    return x.reshape(len(x), -1).astype(jnp.float32) @ W


def run(name, logits_fn: Any = net, x: Any = X, y: Any = Y, key: Any = KEY, **options):
    return attacks.get(name, **(SMALL[name] | options))(logits_fn, x, y, key)


@functools.cache
def eager(name):
    return run(name)


def unchanged(x_adv, x):
    """How many pixels of an image are as they were."""
    return np.asarray((x_adv == x).all(-1).sum((1, 2)))


@pytest.mark.parametrize("name", full_but(NAMES, [*CHEAP, "stadv"]))
def test_it_attacks_inside_the_box(name):
    x_adv = eager(name)
    chex.assert_trees_all_equal_shapes_and_dtypes(x_adv, X)
    chex.assert_tree_all_finite(x_adv)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    fooled = jnp.argmax(net(x_adv), 1) != Y
    gain = losses.cross_entropy(net(x_adv), Y) - losses.cross_entropy(net(X), Y)
    assert fooled.any() or gain.max() > 0


@quick
def test_jit_and_the_rest_of_the_batch_change_nothing(name):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(4))
    order = jnp.array([2, 0, 3])
    some = jax.jit(lambda x: run(name, x=x, y=Y[order], key=keys[order]))(X[order])
    chex.assert_trees_all_close(some, eager(name)[order], rtol=0, atol=2e-6)


@quick
def test_no_gradient_flows(name):
    slope = jax.jit(jax.grad(lambda x: run(name, x=x).sum()))(X)
    chex.assert_trees_all_equal(slope, jnp.zeros_like(slope))


@pytest.mark.parametrize("name", ["recolor", "rotate_translate", "stadv"])
def test_sizes_may_be_traced(name):
    size = {"recolor": "change", "rotate_translate": "rotation", "stadv": "flow"}[name]
    nothing = {"translation": 0.0} if name == "rotate_translate" else {}
    attack = jax.jit(jax.vmap(lambda s: run(name, **{size: s}, **nothing)))
    none, some = attack(jnp.array([0.0, 0.5]))
    chex.assert_trees_all_close(none, X, rtol=0, atol=1e-6)
    assert jnp.abs(some - X).max() > 1e-3


@every
def test_what_cannot_be_is_refused_by_name(name):
    wrong = [
        ({"x": (X * 255).astype(jnp.uint8)}, TypeError, "`x` must be floating.*uint8"),
        ({"x": X * 2}, ValueError, "`x` leaves `bounds`"),
        ({"x": X[:0], "y": Y[:0]}, ValueError, "`x` holds no image"),
        ({"y": Y[:3]}, ValueError, "one label per image"),
        ({"y": Y.at[0].set(3)}, ValueError, "`y` holds labels from"),
        ({"bounds": (1.0, 0.0)}, ValueError, "`bounds` must be .* low < high"),
        ({"loss": "dlrr"}, ValueError, "Unknown loss 'dlrr'"),
    ]
    if name in ("elastic", "hsv", "patch", "recolor", "stadv"):
        wrong.append(({"key": None}, ValueError, "`key` is missing"))
    for changes, error, message in wrong:
        with pytest.raises(error, match=message):
            run(name, **changes)
    with pytest.raises(TypeError, match="Unknown hyperparameter `eps`"):
        attacks.get(name, eps=0.1)


@pytest.mark.parametrize("name", full_but(CHEAP, CHEAP[:1]))
def test_options_that_all_share(name):
    """Bounds, half precision, targets, a loss of the images, a model that draws."""
    wide = run(
        name, x=X * 2 - 1, bounds=(-1.0, 1.0), logits_fn=lambda x: net((x + 1) / 2)
    )
    assert float(wide.min()) >= -1
    half = X.astype(jnp.bfloat16)
    chex.assert_type(run(name, x=half, y=net(half).argmax(1)), jnp.bfloat16)
    aim = (Y + 1) % 3
    toward = run(name, y=aim, targeted=True)
    told = losses.cross_entropy(net(toward), aim) - losses.cross_entropy(net(X), aim)
    assert told.min() < 0
    usual = losses.margin if name == "msd" else losses.cross_entropy
    own = run(name, loss=attacks.on_input(lambda x, y: usual(net(x), y)))
    chex.assert_trees_all_close(own, eager(name), rtol=0, atol=1e-6)

    def noisy(x, keys):
        return net(x) + 0.1 * jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys)

    chex.assert_tree_all_finite(run(name, noisy, stochastic=True, eot_samples=2))


@pytest.mark.parametrize("name", full_but(NAMES, CHEAP))
def test_costs_are_what_is_asked_at_most(name):
    asked = []

    def counted(x):
        jax.debug.callback(lambda: asked.append(1))
        return net(x)

    weak = {
        "msd": dict.fromkeys(("linf", "l2", "l1"), 1e-6),
        "patch": {"side": 1},
        "recolor": {"change": 1e-6},
        "stadv": {"flow": 1e-6},
        "elastic": {"flow": 1e-6},
        "hsv": {"hue": 1e-5, "saturation": 0},
    }
    none = weak.get(name, {"rotation": 1e-6, "translation": 1e-6})
    one = {"x": X[:1], "y": Y[:1]}
    run(name, counted, **one, **none)
    jax.effects_barrier()
    told = registry.cost(name, classes=3, size=108, **(SMALL[name] | none))
    assert 0.4 * sum(told) - 2 <= len(asked) <= sum(told) + 2


def test_the_grid_finds_the_worst_of_all_poses():
    """By brute force over the poses, each an image of `threat.spatial`."""
    found = losses.margin(net(eager("rotate_translate")), Y)
    seen = [losses.margin(net(X), Y)]
    for degrees, down, right in itertools.product((-30, 0, 30), (-2, 0, 2), (-2, 0, 2)):
        pose = jnp.tile(jnp.array([degrees, down, right], jnp.float32), (4, 1))
        seen.append(losses.margin(net(spatial.rotate_translate(X, pose)), Y))
    worst = jnp.stack(seen).max(0)
    chex.assert_trees_all_equal(found > 0, worst > 0)
    own = run("rotate_translate", loss="margin")
    left = losses.margin(net(own), Y)
    chex.assert_trees_all_close(left[worst < 0], worst[worst < 0], rtol=1e-4, atol=1e-5)


def test_more_draws_find_no_less():
    loss = []
    for draws in (1, 8):
        x_adv = run("rotate_translate", search="random", draws=draws, loss="margin")
        loss.append(losses.margin(net(x_adv), Y))
    assert (loss[1] >= jnp.minimum(loss[0], 0)).all()
    with pytest.raises(ValueError, match="`key` is missing and a random search"):
        run("rotate_translate", search="random", key=None)


def test_a_patch_changes_its_pixels_alone():
    x_adv = eager("patch")
    assert (unchanged(x_adv, X) >= 36 - 9).all()
    with pytest.raises(ValueError, match=r"`side` must be at most .*\(6, 6\), got 7"):
        run("patch", side=7)


def test_msd_is_in_the_union_and_beats_each_norm_on_a_line():
    """A linear loss: the best of the three balls is a closed form inside the box."""
    x, y = 0.4 + 0.2 * X, jnp.zeros(4, jnp.int32)
    w = W[:, 1]
    line = lambda x: jnp.stack([0 * x.sum((1, 2, 3)) + 9, x.reshape(4, -1) @ w], 1)  # noqa: E731
    radii: dict[Any, Any] = {"linf": 0.02, "l2": 0.2, "l1": 0.6}
    x_adv = attacks.msd(line, x, y, **radii, steps=40)
    assert (union.distance(x_adv, x, radii) <= 1 + 1e-5).all()
    gain = (x_adv - x).reshape(4, -1) @ w
    best = max(
        0.02 * jnp.abs(w).sum(), 0.2 * jnp.linalg.norm(w), 0.6 * jnp.abs(w).max()
    )
    chex.assert_trees_all_close(gain, jnp.full(4, best), rtol=1e-2)
    alone = attacks.msd(line, x, y, linf=0.0, l2=0.0, l1=0.6, steps=20)
    assert (jnp.abs(alone - x).sum((1, 2, 3)) <= 0.6 + 1e-5).all()


def test_stadv_says_what_a_stochastic_model_needs():
    with pytest.raises(ValueError, match="`smoothness` must be 0 for a stochastic"):
        run("stadv", lambda x, keys: net(x), stochastic=True)


def test_recolor_has_a_table_of_three_channels_at_most():
    with pytest.raises(ValueError, match=r"`x` must have at most 3 channels.* got 6"):
        run("recolor", x=jnp.tile(X, (1, 1, 1, 2)))


def test_every_one_is_told_apart_from_balls():
    assert not set(NAMES) & set(registry.table())
    assert {registry.threat(name) for name in NAMES} >= {"spatial", "patch", "union"}
    assert registry.threat("pgd") == ""
    assert "rotate_translate" in registry.without_gradient()
    assert not set(NAMES) & set(registry.for_training())


@every
def test_help_says_what_every_argument_is(name):
    of = registry.other_threats()[name]
    text = of.function.__doc__ or ""
    for argument in ("logits_fn", "x", "y", "key", *registry.parameters(name)):
        assert f"\n  {argument}: " in text, argument
    assert callable(getattr(attacks, name))
    assert not {"eps", "norm"} & registry.hyperparameters(name)


def test_the_page_names_them_all():
    page = pathlib.Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"
    table = page.read_text().split("| name | paper | threat | needs")[1]
    told = {}
    for line in itertools.takewhile(
        lambda s: s.startswith("|"), table.splitlines()[2:]
    ):
        name, _, threat, needs, _ = (
            cell.strip() for cell in line.strip("|").split("|")
        )
        told[name.strip("`")] = threat, needs
    words = {"gradient": "gradients", "scores": "logits"}
    of = registry.other_threats()
    assert told == {n: (t.threat, words[t.access]) for n, t in of.items()}


def test_shifts_of_hue_saturation_and_value_are_those_of_colorsys():
    x = jax.random.uniform(jax.random.key(3), (2, 5, 5, 3))
    shifts = jnp.array([[0.3, -0.2, 0.1], [-0.45, 0.6, -0.3]])
    found = colour.shift_hsv(2 * x - 1, shifts, bounds=(-1.0, 1.0))
    for one, own, out in zip(x, shifts.tolist(), found, strict=True):
        for pixel, changed in zip(one.reshape(-1, 3), out.reshape(-1, 3), strict=True):
            h, s, v = colorsys.rgb_to_hsv(*pixel.tolist())
            s, v = (min(max(a + b, 0), 1) for a, b in zip((s, v), own[1:], strict=True))
            want = colorsys.hsv_to_rgb((h + own[0]) % 1, s, v)
            np.testing.assert_allclose((changed + 1) / 2, want, atol=1e-5)


def test_grey_stays_grey_and_three_channels_are_needed():
    grey = jnp.tile(X[..., :1], (1, 1, 1, 3))
    shifted = colour.shift_hsv(grey, jnp.array([[0.4, 0.9, 0.0]]))
    chex.assert_trees_all_close(shifted, grey, atol=1e-6)
    with pytest.raises(ValueError, match=r"`x` must have 3 channels.* got 1"):
        run("hsv", lambda x: net(jnp.tile(x, (1, 1, 1, 3))), X[..., :1])


def test_images_that_no_shift_makes_worse_stay_as_they_are():
    """To hue and back would round them."""
    x, y = jax.random.uniform(KEY, (3, 4, 4, 3)), jnp.zeros(3, int)

    def surest_at_x(z):
        return jnp.stack([3 + jnp.abs(z - x).sum((1, 2, 3)), jnp.zeros(len(z))], 1)

    x_adv = attacks.hsv(surest_at_x, x, y, key=KEY, draws=5)
    chex.assert_trees_all_equal(x_adv, x)


def test_smoothed_flows_are_means():
    field = jax.random.normal(KEY, (1, 8, 5, 2))
    chex.assert_trees_all_close(spatial.smoothed(field, 0.0), field)
    chex.assert_trees_all_close(spatial.smoothed(0 * field + 1, 3.0), 0 * field + 1)
    wide = spatial.smoothed(field, 1e3)
    chex.assert_trees_all_close(
        wide, 0 * field + field.mean((1, 2), keepdims=True), atol=1e-4
    )
    assert jnp.abs(spatial.smoothed(field, 1.0)).max() < jnp.abs(field).max()


@pytest.mark.parametrize(
    "name", full_but(["stadv", "msd", "rotate_translate_gradient"], ["stadv"])
)
def test_the_scale_of_logits_does_not_count(name):
    of = [run(name, lambda x, s=s: s * net(x)) for s in (1e-6, 1e6)]
    lost = [int((jnp.argmax(net(x), 1) != Y).sum()) for x in of]
    assert lost[0] == lost[1] == int((jnp.argmax(net(eager(name)), 1) != Y).sum())


def test_no_radius_is_no_union():
    with pytest.raises(ValueError, match="one radius must be above 0"):
        run("msd", linf=0, l2=0, l1=0)
