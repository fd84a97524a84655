"""Eager calls: what they check, compile, warn about, and do not keep alive."""

import dataclasses
import functools
import gc
import time
import warnings
import weakref
from concurrent import futures

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxrobust import RobustnessWarning, attacks, losses, models
from jaxrobust.attacks._jaxprs import on_cpu
from jaxrobust.attacks.programs import inner_jaxprs

X = jax.random.uniform(jax.random.key(1), (4, 6, 6, 2))
# So many that a minimum by XLA on a CPU passes over NaN.
MANY = jnp.full((4, 60, 60, 1), 0.5)
Y = jnp.array([0, 1, 2, 0])
KEY = jax.random.key(5)
W = jax.random.normal(jax.random.key(0), (72, 3))
STEPS = {"eps": 0.1, "step_size": 0.04, "steps": 3}


def net(x, w=W):
    return x.reshape(x.shape[0], -1) @ w


def pgd(**changes):
    arguments = {"logits_fn": net, "x": X, "y": Y, "key": KEY} | STEPS | changes
    return attacks.pgd(**arguments)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": X * 2}, ValueError, r"`x` leaves `bounds` \(0.0, 1.0\).* to 1\.9"),
        ({"x": X - 0.5}, ValueError, r"`x` leaves `bounds`.* from -0\.4"),
        ({"x": X.at[0, 0, 0, 0].set(jnp.nan)}, ValueError, "`x` is not finite: 1 of"),
        (
            {"x": MANY.at[0, 9, 9, 0].set(jnp.nan)},
            ValueError,
            "`x` is not finite: 1 of",
        ),
        ({"bounds": (1.0, 0.0)}, ValueError, r"`bounds` .*low < high.*\(1.0, 0.0\)"),
        ({"x": (X * 255).astype(jnp.uint8)}, TypeError, "uint8.* divide by 255"),
        ({"x": (X * 9).astype(jnp.int32)}, TypeError, "`x` must be floating.*int32"),
        ({"x": X[:, 0, 0, 0]}, ValueError, r"`x` must have shape.*\(4,\)"),
        ({"x": [[0.5]]}, TypeError, "`x` must be floating.*list"),
        ({"y": Y.at[1].set(3)}, ValueError, "labels from 0 to 3.* 3 classes"),
        ({"y": Y.at[1].set(-1)}, ValueError, r"labels from -1 .*\[0, 2\]"),
        ({"y": Y[:2]}, ValueError, r"one label per image.*\(4,\).*\(2,\)"),
        ({"y": Y[:, None]}, ValueError, r"one label per image.*\(4, 1\)"),
        ({"y": Y.astype(float)}, TypeError, "integer labels, got float32"),
        ({"logits_fn": lambda x: x}, ValueError, r"logits of shape.*\(4, 6, 6, 2\)"),
        ({"logits_fn": lambda x: net(x).sum()}, ValueError, r"logits of shape.*\(\)"),
        ({"logits_fn": lambda x: (net(x),)}, ValueError, "logits of shape.*tuple"),
        ({"logits_fn": None}, TypeError, "`logits_fn` must be a function.*NoneType"),
        ({"logits_fn": lambda x: net(x) / 0}, ValueError, "not finite for 4 of 4"),
        ({"eps": -0.1}, ValueError, r"`eps` must be at least 0.*-0\.1"),
        ({"eps": float("nan")}, ValueError, "`eps` must be.*nan"),
        ({"eps": None}, TypeError, "`eps` must be a number.* got None"),
        ({"eps": "8/255"}, TypeError, "`eps` must be a number.* got '8/255'"),
        ({"bounds": 1}, ValueError, r"`bounds` must be \(low, high\).* got 1;"),
        ({"x": X[:0], "y": Y[:0]}, ValueError, r"`x` holds no image.*\(0, 6, 6, 2\)"),
        ({"step_size": -1}, ValueError, r"`step_size` must be at least 0.*-1"),
        ({"steps": -1}, ValueError, "`steps` must be at least 0, got -1"),
        ({"steps": 2.0}, TypeError, r"`steps` must be a Python int, got 2\.0"),
        ({"restarts": 0}, ValueError, "`restarts` must be at least 1, got 0"),
        ({"eot_samples": 0}, ValueError, "`eot_samples` must be at least 1"),
        ({"eot_samples": 2}, ValueError, "`eot_samples` = 2.*stochastic=True"),
        ({"key": None}, ValueError, "`key` is missing and a random start"),
        (
            {"key": None, "random_start": False, "stochastic": True},
            ValueError,
            "`key` is missing and stochastic=True",
        ),
        ({"key": jax.random.PRNGKey(0)}, TypeError, "`key` must be a new-style"),
        ({"norm": "l3"}, ValueError, "Unknown norm 'l3'. Did you mean 'l[12]'"),
        ({"loss": "dlrr"}, ValueError, "Unknown loss 'dlrr'. Did you mean 'dlr'"),
        ({"loss": 3}, TypeError, "`loss` must be a name.*int"),
        ({"loss": lambda z, y: z.sum()}, ValueError, r"one value per example.*\(\)"),
    ],
)
def test_checks(changes, error, message):
    with pytest.raises(error, match=message):
        pgd(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": Y[:2]}, "one label per image"),
        ({"logits_fn": lambda x: x}, "logits of shape"),
        ({"key": None}, "`key` is missing"),
        ({"steps": -1}, "`steps`"),
    ],
)
def test_shape_checks_stay_under_jit(changes, message):
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda x: pgd(**({"x": x} | changes)))(X)


def test_dlr_with_two_classes():
    with pytest.raises(ValueError, match=r"dlr loss .*at least 3 classes, got 2"):
        pgd(logits_fn=lambda x: net(x)[:, :2], y=Y % 2, loss="dlr")


def test_noise_checks():
    with pytest.raises(ValueError, match="`draws` must be at least 1, got 0"):
        attacks.uniform_noise(X, key=KEY, eps=0.1, draws=0)
    with pytest.raises(ValueError, match="`x` leaves `bounds`"):
        attacks.uniform_noise(X + 1, key=KEY, eps=0.1)
    with pytest.raises(ValueError, match="`key` is missing"):
        attacks.uniform_noise(X, key=None, eps=0.1)  # pyright: ignore
    with pytest.raises(ValueError, match="`eps` must be at least 0"):
        attacks.uniform_noise(X, key=KEY, eps=-0.1)
    with pytest.raises(ValueError, match="`x` holds no image"):
        attacks.uniform_noise(X[:0], key=KEY, eps=0.1)


def test_get_checks():
    with pytest.raises(ValueError, match=r"Unknown attack 'pdg'. Did you mean 'pgd'"):
        attacks.get("pdg", eps=0.1)
    with pytest.raises(TypeError, match=r"`step` of pgd. Did you mean 'steps'"):
        attacks.get("pgd", eps=0.1, step=2)
    with pytest.raises(TypeError, match="`random_start` of bim"):
        attacks.get("bim", eps=0.1, step_size=0.1, steps=1, random_start=True)
    with pytest.raises(TypeError, match="pgd needs step_size, steps"):
        attacks.get("pgd", eps=0.1)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"steps": -1}, ValueError, "`steps` must be at least 0, got -1"),
        ({"steps": 2.5}, TypeError, r"`steps` must be a Python int, got 2\.5"),
        ({"restarts": 0}, ValueError, "`restarts` must be at least 1, got 0"),
        ({"norm": "l3"}, ValueError, "Unknown norm 'l3'"),
        ({"loss": "dlrr"}, ValueError, "Unknown loss 'dlrr'. Did you mean 'dlr'"),
        ({"eps": -0.1}, ValueError, r"`eps` must be at least 0.*-0\.1"),
        ({"eps": "8/255"}, TypeError, "`eps` must be a number.* got '8/255'"),
        ({"step_size": float("nan")}, ValueError, "`step_size` must be.*not NaN"),
        ({"bounds": (1.0, 0.0)}, ValueError, "`bounds` must be.*low < high"),
    ],
)
def test_get_checks_values_before_any_call(changes, error, message):
    with pytest.raises(error, match=message):
        attacks.get("pgd", **(STEPS | changes))


def test_get_takes_traced_values_and_a_default_step():
    attacks.get("fgsm", eps=0.1, step_size=None)

    @jax.jit
    def attack(eps):
        make = attacks.get("pgd", **(STEPS | {"eps": eps}))
        return make(net, X, Y, KEY)

    chex.assert_trees_all_close(attack(0.1), pgd(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("decay", [-1.0, float("nan")])
def test_decay_is_checked(decay):
    with pytest.raises(ValueError, match="`decay` must be at least 0"):
        attacks.mim(net, X, Y, decay=decay, **STEPS)
    with pytest.raises(ValueError, match="`decay` must be at least 0"):
        attacks.get("mim", decay=decay, **STEPS)


@pytest.mark.parametrize("labels", [[0, 1, 2, 7], [0, 1, 2, -1]])
def test_labels_are_checked_on_every_call(labels):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x.reshape(x.shape[0], -1))

    module = Net()
    fn = jax.tree_util.Partial(module.apply, module.init(jax.random.key(0), X))
    pgd(logits_fn=fn)
    with pytest.raises(ValueError, match=r"`y` holds labels from .* 3 classes"):
        pgd(logits_fn=fn, y=jnp.array(labels))


@pytest.mark.parametrize("name", ["fgsm", "bim", "mim", "pgd", "ball", "uniform_noise"])
def test_a_warning_names_the_line_of_the_call(name):
    def probabilities(x):
        return jax.nn.softmax(net(x))

    given = STEPS if name in ("bim", "mim", "pgd") else {"eps": 0.1}
    calls = [lambda: attacks.get(name, **given)(probabilities, X, Y, KEY)]
    if name not in ("ball", "uniform_noise"):
        attack = getattr(attacks, name)
        calls.append(lambda: attack(probabilities, X, Y, key=KEY, **given))
    for call in calls:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        assert [w.category for w in caught] == [RobustnessWarning]
        assert "probabilities" in str(caught[0].message)
        assert caught[0].filename == __file__
        assert caught[0].lineno == call.__code__.co_firstlineno


def test_noise_looks_at_the_logits_too():
    noise = attacks.get("ball", eps=0.1, draws=2)
    with pytest.raises(ValueError, match="not finite for 4 of 4"):
        noise(lambda x: net(x) / 0, X, Y, KEY)
    noise(net, X, Y, KEY)  # a warning would be an error


def test_warns_about_probabilities():
    with pytest.warns(RobustnessWarning, match="probabilities"):
        pgd(logits_fn=lambda x: jax.nn.softmax(net(x)))


def test_warns_about_zero_gradients():
    def half_flat(x):
        return jnp.where(jnp.arange(4)[:, None] < 2, jnp.ones(3)[None], net(x))

    with pytest.warns(RobustnessWarning, match="zero or NaN for 2 of 4 images"):
        pgd(logits_fn=half_flat)


def test_images_at_the_bounds_and_numpy_inputs_pass():
    x = np.array([0.0, 1.0], np.float32)[:, None, None, None] * np.ones((2, 6, 6, 2))
    x_adv = pgd(x=x.astype(np.float32), y=np.array([0, 1], np.uint8))
    chex.assert_type(x_adv, jnp.float32)


class Model:
    """An object that is a model: weights may be replaced, and it may be deleted."""

    def __init__(self, seed):
        self.w = jax.random.normal(jax.random.key(seed), W.shape)

    def __call__(self, x):
        return net(x, self.w)

    def method(self, x):
        return self(x)

    def closure(self):
        return lambda x: self(x)

    def jitted(self):
        w = self.w
        return jax.jit(lambda x: net(x, w))

    def nested(self):
        inner, w = self.jitted(), self.w
        return jax.jit(lambda x: inner(0.01 * inner(x) @ w.T))


FORMS = {
    "object": lambda m: m,
    "method": lambda m: m.method,
    "closure": lambda m: m.closure(),
    "jit": lambda m: m.jitted(),
    "nested jit": lambda m: m.nested(),
    "partial": lambda m: jax.tree_util.Partial(lambda w, x: net(x, w), m.w),
}


@pytest.mark.parametrize("form", FORMS)
def test_new_weights_are_seen_and_not_compiled_in(form, compilations):
    first, second = Model(1), Model(2)
    one = pgd(logits_fn=FORMS[form](first))
    compiled = compilations()
    two = pgd(logits_fn=FORMS[form](second))
    first.w = second.w
    three = pgd(logits_fn=FORMS[form](first))
    assert compilations() == compiled
    assert float(jnp.abs(one - two).max()) > 1e-3
    chex.assert_trees_all_equal(two, three)
    expected = jax.jit(lambda x: pgd(logits_fn=FORMS[form](second), x=x))(X)
    chex.assert_trees_all_close(two, expected, rtol=0, atol=1e-6)


WEIGHTS = {"now": W}


def of_a_global(scale, x):
    return net(x, scale * WEIGHTS["now"])


@dataclasses.dataclass(frozen=True)
class OfAGlobal:
    scale: float

    def __call__(self, x):
        return of_a_global(self.scale, x)


@pytest.mark.parametrize(
    "function",
    [
        jax.tree_util.Partial(of_a_global, 2.0),
        jax.tree_util.Partial(functools.partial(of_a_global, 2.0)),
        jax.tree_util.Partial(OfAGlobal(2.0)),
        OfAGlobal(2.0),
    ],
    ids=["partial", "nested partial", "partial of an object", "object"],
)
def test_a_global_that_changed_is_seen(function, monkeypatch):
    before = pgd(logits_fn=function)
    monkeypatch.setitem(WEIGHTS, "now", -W)
    after = pgd(logits_fn=function)
    assert float(jnp.abs(before - after).max()) > 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_kept_alive(form):
    model = Model(3)
    refs = [weakref.ref(model), weakref.ref(model.w)]
    logits_fn = FORMS[form](model)
    refs.append(weakref.ref(logits_fn))
    pgd(logits_fn=logits_fn)
    jax.block_until_ready(pgd(logits_fn=logits_fn, restarts=2))
    del model, logits_fn
    gc.collect()
    assert [ref() for ref in refs] == [None] * 3


def test_the_arrays_of_a_linen_model_are_not_kept_alive():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x.reshape(x.shape[0], -1))

    module = Net()
    variables = module.init(jax.random.key(0), X)
    refs = [weakref.ref(leaf) for leaf in jax.tree.leaves(variables)]
    for _ in range(2):
        pgd(logits_fn=jax.tree_util.Partial(module.apply, variables))
    del variables
    gc.collect()
    assert [ref() for ref in refs] == [None] * len(refs)


def test_a_callable_is_traced_once_per_call():
    for _ in range(2):
        chex.clear_trace_counter()
        pgd(logits_fn=chex.assert_max_traces(lambda x: net(x), n=1), restarts=2)


def test_a_loss_with_captured_arrays_is_not_stale(compilations):
    def loss_for(center):
        return lambda z, y: jnp.sum((z - center[None]) ** 2, axis=1)

    one = pgd(loss=loss_for(jnp.zeros(3)))
    center = 5 * jnp.arange(3.0)
    compiled = compilations()
    two = pgd(loss=loss_for(center))
    assert compilations() == compiled
    assert float(jnp.abs(one - two).max()) > 1e-3
    ref = weakref.ref(center)
    del center
    gc.collect()
    assert ref() is None


def test_models_with_one_forward_pass_but_other_gradients_differ():
    """A straight-through estimator looks like its forward pass."""
    direction = jnp.where(jnp.arange(3) == 0, 1.0, -1.0)

    def through(sign):
        @jax.custom_vjp
        def f(x):
            return jnp.round(net(x))

        f.defvjp(
            lambda x: (f(x), x),
            lambda x, g: (sign * jax.vjp(net, x)[1](g + 0 * direction[None])[0],),
        )
        return f

    up, down = (pgd(logits_fn=through(s), random_start=False) for s in (1.0, -1.0))
    assert float(jnp.abs(up - down).max()) > 0.1


def test_callbacks_are_never_mixed_up():
    """Two host callbacks look the same in a program's text."""

    def with_callback(shift):
        def shifted(x):
            shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
            moved = jax.pure_callback(
                lambda v: np.asarray(v) + np.float32(shift),
                shape,
                jax.lax.stop_gradient(x),
            )
            return net(x) * (1 + moved.mean((1, 2, 3))[:, None])

        return shifted

    for shift in (0.0, -4.0):
        eager = pgd(logits_fn=with_callback(shift), random_start=False)
        moved = net(X) * (1 + X.mean((1, 2, 3))[:, None] + shift)
        attacked = net(eager) * (1 + eager.mean((1, 2, 3))[:, None] + shift)
        before, after = (losses.cross_entropy(z, Y) for z in (moved, attacked))
        assert (after > before).all()


def test_arrays_inside_control_flow_are_not_stale_either():
    """They stay constants of the program, which is then not kept."""

    def looped(w):
        inner = jax.jit(lambda h: jnp.tanh(h @ w))
        return lambda x: net(jax.lax.fori_loop(0, 2, lambda _, h: inner(h), net_in(x)))

    def net_in(x):
        return x.reshape(x.shape[0], -1)

    w = jax.random.normal(jax.random.key(8), (72, 72)) / 8
    results = [pgd(logits_fn=looped(v)) for v in (w, -w.T)]
    for v, x_adv in zip((w, -w.T), results, strict=True):
        expected = jax.jit(lambda x, v=v: pgd(logits_fn=looped(v), x=x))(X)
        chex.assert_trees_all_close(x_adv, expected, rtol=0, atol=1e-6)


def test_precision_is_part_of_the_program(compilations):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x.reshape(x.shape[0], -1))

    module = Net()
    fn = jax.tree_util.Partial(module.apply, module.init(jax.random.key(0), X))
    pgd(logits_fn=fn)
    compiled = compilations()
    with jax.default_matmul_precision("highest"):
        pgd(logits_fn=fn)
    assert compilations() > compiled


@pytest.mark.parametrize("axes", [AxisType.Auto, AxisType.Explicit])
def test_sharded_inputs(axes):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(axes,))
    by_batch = NamedSharding(mesh, PartitionSpec("data"))
    x, y = jax.device_put((X, Y), by_batch)
    x_adv = pgd(x=x, y=y)
    assert len(x_adv.sharding.device_set) == 4
    chex.assert_trees_all_close(x_adv, pgd(), rtol=0, atol=1e-6)


def test_eager_vmap_and_grad_fall_back_to_the_pure_attack():
    radii = jnp.array([0.0, 0.1])
    together = jax.vmap(lambda eps: pgd(eps=eps))(radii)
    chex.assert_trees_all_close(together[1], pgd(), rtol=0, atol=1e-6)
    many = jax.vmap(lambda w: pgd(logits_fn=lambda x: net(x, w)))(jnp.stack([W, -W]))
    chex.assert_trees_all_close(many[0], pgd(), rtol=0, atol=1e-6)
    grad = jax.grad(lambda w: pgd(logits_fn=lambda x: net(x, w)).sum())(W)
    assert not np.any(grad)


def test_disable_jit_runs_step_by_step():
    short = {"steps": 1, "random_start": False}
    with jax.disable_jit():
        x_adv = pgd(**short)
    chex.assert_trees_all_close(x_adv, pgd(**short), rtol=0, atol=1e-6)


class Stock(nn.Module):
    """A foreign net: its input gradient is slow inside loops on CPU."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Conv(4, (3, 3), strides=2)(x))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


class Ours(nn.Module):
    """Our own convolution has a gradient that is fast inside loops too."""

    @nn.compact
    def __call__(self, x):
        fast = models.layers.conv_general_dilated
        x = nn.tanh(nn.Conv(4, (3, 3), strides=2, conv_general_dilated=fast)(x))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


def loops(function, *args):
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr

    def count(jaxpr):
        found = sum(e.primitive.name in ("while", "scan") for e in jaxpr.eqns)
        return found + sum(
            count(inner) for e in jaxpr.eqns for inner, _ in inner_jaxprs(e.params)
        )

    return count(jaxpr)


@pytest.mark.skipif(not on_cpu(), reason="a trap of XLA on CPU")
def test_threads_attack_their_own_models():
    """Models that take a while to trace, at the same time, on images of one shape."""
    x, y = jnp.full((3, 2, 2, 1), 0.5), jnp.zeros(3, jnp.int32)

    def model(number):
        weights = jnp.asarray(np.random.default_rng(number).normal(size=(4, 3)))

        def logits_fn(x):
            time.sleep(0.05)
            return x.reshape(len(x), -1) @ weights

        return logits_fn

    def attacked(logits_fn):
        return attacks.pgd(
            logits_fn, x, y, eps=0.1, step_size=0.05, steps=2, random_start=False
        )

    networks = [model(number) for number in range(4)]
    alone = [attacked(network) for network in networks]
    with futures.ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            chex.assert_trees_all_equal(list(pool.map(attacked, networks)), alone)


@pytest.mark.full
def test_slow_convolutions_stay_out_of_loops(compilations):
    stock = Stock()
    variables = stock.init(jax.random.key(0), X)
    foreign = jax.tree_util.Partial(stock.apply, variables)

    def attack(steps, restarts=1, unroll=None):
        return lambda x: pgd(
            logits_fn=foreign, x=x, steps=steps, restarts=restarts, unroll=unroll
        )

    assert loops(attack(3), X) == 0
    assert loops(attack(3, unroll=1), X) == 1
    assert loops(attack(30), X) == 1
    ours = Ours()
    own = jax.tree_util.Partial(ours.apply, ours.init(jax.random.key(0), X))
    assert loops(lambda x: pgd(logits_fn=own, x=x), X) == 1
    # Eagerly: stepped from the host, with the same result.
    for restarts in (1, 2):
        compiled = compilations()
        eager = attack(3, restarts)(X)
        assert compilations() - compiled >= 3  # start, step and end
        jitted = jax.jit(attack(3, restarts, unroll=1))(X)
        chex.assert_trees_all_close(eager, jitted, rtol=0, atol=1e-6)
