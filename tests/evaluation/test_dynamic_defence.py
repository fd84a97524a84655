"""A gradient inside a forward pass is seen in its program, and nothing else is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import evaluation, models, preprocessing
from jaxrobust.evaluation.dynamic_defence import turns_weights_round
from jaxrobust.evaluation.network import CompiledNetwork
from jaxrobust.evaluation.refining_loops import refines_in_a_loop

NETWORKS = {
    "lenet5": {},
    "ssp_cifar": {"integrator": "ssp3", "blocks": 1, "width": 4, "stages": 2},
    "wide_resnet": {"depth": 10, "width": 1},
    "fpd_resnet": {"layers": (1, 1, 1, 1), "width": 2, "stem": "cifar"},
    "vit": {"blocks": 1, "width": 4, "heads": 2},
}
NETWORKS["fpd_resnet"]["spectral_bound"] = 0.5  # its kernel meets itself
X = np.zeros((2, 16, 16, 3), np.float32)


def made(name):
    model = models.create(name, **NETWORKS[name])
    shapes = jax.eval_shape(lambda key: model.init(key, X), jax.random.key(0))
    return model, jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)


def purified(fn):
    """Takes a step that makes the network surer of what it sees, then looks."""

    def logits_fn(x):
        steps = jax.grad(lambda x: jnp.max(fn(x), -1).sum())(x)
        return fn(x + 0.01 * steps)

    return logits_fn


def turns(fn, variables):
    jaxpr = jax.make_jaxpr(fn)(variables, X).jaxpr
    return turns_weights_round(jaxpr, len(jax.tree.leaves(variables)))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_inside_is_seen(name):
    model, variables = made(name)
    plain = lambda v, x: models.logits_fn(model, v)(x)  # noqa: E731
    assert not turns(plain, variables)
    jaxpr = jax.make_jaxpr(plain)(variables, X).jaxpr
    assert not refines_in_a_loop(jaxpr, len(jax.tree.leaves(variables)))
    assert turns(lambda v, x: purified(lambda x: plain(v, x))(x), variables)


def test_in_loops_and_branches():
    w = np.eye(4, dtype=np.float32)

    def steps(w, x):
        step = jax.grad(lambda x: jnp.sum(jnp.tanh(x @ w)))
        return jax.lax.fori_loop(0, 3, lambda i, x: x - step(x), x) @ w

    def rounds(w, x):
        many = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, jnp.stack([w] * 3))
        return jax.lax.cond(x.sum() > 0, lambda x: x @ w, lambda x: x * 2, many[0])

    for fn, inside in ((steps, True), (rounds, False)):
        jaxpr = jax.make_jaxpr(fn)(w, np.zeros((2, 4), np.float32)).jaxpr
        assert turns_weights_round(jaxpr, 1) is inside


def smoothed(x):
    """Descends the total variation a few times: an optimisation without weights."""
    variation = jax.grad(lambda x: jnp.sum(jnp.diff(x, axis=1) ** 2))
    return jax.lax.fori_loop(0, 5, lambda i, z: z - 0.1 * variation(z), x)


def solved(w, x):
    """A layer that runs until it stands still."""
    moves = lambda z: jnp.tanh(z @ w + x)  # noqa: E731
    more = lambda z: jnp.abs(moves(z) - z).max() > 1e-3  # noqa: E731
    return jax.lax.while_loop(more, moves, jnp.zeros_like(x))


def layers(w, x):
    """A loop over layers, each with its own weights."""
    many = jnp.stack([w] * 3)
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, many)[0]


def rows(w, x):
    """A recurrent network over the rows of the images, and a map over the images."""
    start = jnp.zeros(4)
    read = lambda row: jnp.tanh(row @ w)  # noqa: E731
    over = lambda one: jax.lax.scan(lambda h, r: (h @ w + read(r), None), start, one)[0]  # noqa: E731
    return jax.lax.map(over, x[:, None])


def tiled(w, x):
    """Rows of a result, written one after the other."""
    put = lambda i, out: jax.lax.dynamic_update_slice(out, (x[i] @ w)[None], (i, 0))  # noqa: E731
    return jax.lax.fori_loop(0, 2, put, jnp.zeros_like(x))


def layers_by_number(w, x):
    """The same, each taken by its number."""
    many = jnp.stack([w] * 3)
    return jax.lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ many[i]), x)


def layers_by_numbers(w, x):
    many = jnp.stack([w] * 3)
    step = lambda x, i: (jnp.tanh(x @ many[i]), None)  # noqa: E731
    return jax.lax.scan(step, x, jnp.arange(3))[0]


def looked_up(w, x):
    """A binary search, as where values are quantised or interpolated."""
    bins = jnp.linspace(-2.0, 2.0, 17)
    return jnp.interp(x, bins, bins**2) @ w + jnp.searchsorted(bins, x)


def solved_by_steps(w, x):
    """Conjugate gradients."""
    return jax.scipy.sparse.linalg.cg(lambda v: v @ (w @ w.T) + v, x, maxiter=5)[0]


def solved_at_once(w, x):
    return jnp.linalg.solve(w @ w.T + jnp.eye(4), x.T).T


def drawn(w, x):
    """The mean over some draws: each is of the image itself."""
    keys = jax.random.split(jax.random.key(0), 4)
    noisy = lambda key: x @ w + jax.random.normal(key, x.shape)  # noqa: E731
    return jax.lax.map(noisy, keys).mean(0)


@pytest.mark.parametrize(
    ("fn", "inside"),
    [
        (lambda w, x: smoothed(x) @ w, True),
        (lambda w, x: jax.jit(smoothed)(x) @ w, True),
        (lambda w, x: jax.vmap(lambda row: smoothed(row[None])[0])(x) @ w, True),
        (solved, True),
        (layers, False),
        (rows, False),
        (tiled, False),
        (layers_by_number, False),
        (layers_by_numbers, False),
        (looked_up, False),
        (solved_by_steps, True),
        (solved_at_once, False),
        (drawn, False),
    ],
)
def test_a_loop_inside_is_seen(fn, inside):
    w = np.eye(4, dtype=np.float32)
    jaxpr = jax.make_jaxpr(fn)(w, np.zeros((2, 4), np.float32)).jaxpr
    assert refines_in_a_loop(jaxpr, 1) is inside


def test_weights_without_values_are_read_over():
    empty = lambda w, x: x @ jnp.eye(4) + w.reshape(0, 3).sum()  # noqa: E731
    jaxpr = jax.make_jaxpr(empty)(np.zeros((3, 0), np.float32), np.ones((2, 4))).jaxpr
    assert not turns_weights_round(jaxpr, 1)


def small():
    """A network of one layer, images and their classes."""
    w = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    x = np.random.default_rng(1).uniform(size=(6, 4, 4, 1)).astype(np.float32)
    fn = lambda x: jnp.tanh(x.reshape(len(x), -1) @ w)  # noqa: E731
    return fn, x, np.asarray(fn(x)).argmax(1)


def test_a_transform_and_its_inverse_are_no_gradient():
    fn, x, _ = small()
    with_jpeg = preprocessing.jpeg(fn, quality=75)
    assert not CompiledNetwork(with_jpeg, x[0], 2).turns_weights_round
    assert CompiledNetwork(purified(with_jpeg), x[0], 2).turns_weights_round


def test_a_diagnosis_says_so():
    fn, x, y = small()
    both = lambda x: purified(fn)(smoothed(x))  # noqa: E731
    options = {"key": jax.random.key(0), "eps": 0.1, "steps": 2, "queries": 2}
    numbers, found = evaluation.diagnose(both, x, y, **options)
    assert numbers.gradient_inside
    assert numbers.loop_inside
    names = [flag["name"] for flag in found]
    assert {"gradient_inside", "loop_inside"} <= set(names)
    numbers, found = evaluation.diagnose(fn, x, y, **options)
    assert numbers.gradient_inside is numbers.loop_inside is False


@pytest.mark.full
def test_autoattack_says_so_of_a_random_one():
    fn, x, y = small()
    options = {"key": jax.random.key(0), "eps": 0.01, "progress": False, "slots": 16}

    def noisy(x, keys):
        draw = jax.vmap(lambda key, one: jax.random.normal(key, one.shape))
        return fn(smoothed(x) + 1e-3 * draw(keys, x))

    result = evaluation.autoattack(
        noisy, x, y,
        version="rand", stochastic=True, **options,
    )  # fmt: skip
    assert "loop_inside" in [flag["name"] for flag in result.flags]


def test_autoattack_says_so():
    fn, x, y = small()
    assert not CompiledNetwork(fn, x[0], 2).turns_weights_round
    options = {"key": jax.random.key(0), "eps": 0.01, "progress": False, "slots": 16}
    both = lambda x: purified(fn)(smoothed(x))  # noqa: E731
    names = {
        flag["name"] for flag in evaluation.autoattack(both, x, y, **options).flags
    }
    assert {"gradient_inside", "loop_inside"} <= names
