"""The evaluation step and its loop, on networks with known answers."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, data, parallel
from jaxrobust.evaluation import Ball, check_ball, make_eval_step, run_eval_step
from tests.marks import full_but

EPS = 0.1


class Linear(nn.Module):
    """Logits (0, w.x - b) with given weights."""

    @nn.compact
    def __call__(self, images, *, train=False):
        w = self.param("w", nn.initializers.zeros, images.shape[1:], images.dtype)
        b = self.param("b", nn.initializers.zeros, (), images.dtype)
        score = jnp.einsum("bhwc,hwc->b", images, w) - b
        return jnp.stack([jnp.zeros_like(score), score], -1)


def linear_problem(n=37, seed=0):
    """Images away from the bounds, so that the box never binds, and weights."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 196, (n, 3, 3, 1), np.uint8)
    w = rng.normal(size=(3, 3, 1)).astype(np.float32)
    b = np.float32(w.sum() / 2)
    labels = (rng.uniform(size=n) < 0.5).astype(np.int32)
    return data.Dataset(images, labels, ("no", "yes")), {"params": {"w": w, "b": b}}


def margins(dataset, variables):
    """Signed margin of the true class in float64."""
    w, b = (np.asarray(variables["params"][k], np.float64) for k in "wb")
    score = np.einsum("nhwc,hwc->n", dataset.images / 255, w) - b
    return np.where(dataset.labels == 1, score, -score)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_linear_accuracy_is_closed_form(norm):
    dataset, variables = linear_problem()
    attack = attacks.get("fgsm", eps=EPS, norm=norm)
    step = make_eval_step(Linear(), attack)
    ball = Ball(EPS, norm)
    key = jax.random.key(0)
    run = run_eval_step(step, variables, dataset, key=key, batch_size=8, ball=ball)
    w = np.asarray(variables["params"]["w"], np.float64)
    dual = np.abs(w).sum() if norm == "linf" else np.sqrt((w**2).sum())
    left = margins(dataset, variables) - EPS * dual
    chex.assert_trees_all_equal(run.correct, left > 0)
    chex.assert_trees_all_close(run.loss, np.log1p(np.exp(-left)), rtol=1e-4)
    chex.assert_trees_all_close(run.distance[norm], EPS, rtol=1e-4)
    clean = run_eval_step(
        make_eval_step(Linear()), variables, dataset, key=key, batch_size=8
    )
    chex.assert_trees_all_equal(clean.correct, margins(dataset, variables) > 0)
    assert clean.accuracy > run.accuracy


@pytest.mark.parametrize("batch_size", full_but([1, 9, 16, 64], [9, 64]))
def test_batch_size_and_devices_change_nothing(batch_size):
    dataset, variables = linear_problem()
    attack = attacks.get("pgd", eps=EPS, step_size=0.03, steps=3, random_start=True)
    step = make_eval_step(Linear(), attack)
    options = {"key": jax.random.key(3), "keep_images": 37}
    want = run_eval_step(step, variables, dataset, batch_size=37, **options)
    got = run_eval_step(step, variables, dataset, batch_size=batch_size, **options)
    chex.assert_shape(got.x_adv, (37, 3, 3, 1))
    chex.assert_trees_all_close(got.x_adv, want.x_adv, rtol=0, atol=1e-6)
    chex.assert_trees_all_close(got.loss, want.loss, rtol=0, atol=1e-5)
    chex.assert_trees_all_equal(got.correct, want.correct)
    options["mesh"] = parallel.make_mesh()
    assert options["mesh"].size == 8
    got = run_eval_step(step, variables, dataset, batch_size=batch_size, **options)
    chex.assert_trees_all_close(got.x_adv, want.x_adv, rtol=0, atol=1e-6)
    chex.assert_trees_all_equal(got.correct, want.correct)


def test_a_part_sees_the_same_keys_as_the_whole():
    dataset, variables = linear_problem()
    noise = attacks.get("uniform_noise", eps=EPS)
    step = make_eval_step(Linear(), noise)
    options = {"key": jax.random.key(3), "batch_size": 5}
    whole = run_eval_step(step, variables, dataset, keep_images=37, **options)
    part = np.asarray([3, 17, 36])
    got = run_eval_step(
        step, variables, dataset, indices=part, keep_images=3, **options
    )
    chex.assert_trees_all_equal(got.x_adv, whole.x_adv[part])
    positions = np.asarray([36, 4])
    some = run_eval_step(step, variables, dataset, keep_images=positions, **options)
    chex.assert_trees_all_equal(some.x_adv, whole.x_adv[np.sort(positions)])


def test_one_compiled_step_serves_all_weights_and_batches():
    dataset, variables = linear_problem()
    nothing = chex.assert_max_traces(lambda logits_fn, x, y, keys: x, n=1)
    step = make_eval_step(Linear(), nothing)
    key = jax.random.key(0)
    one = run_eval_step(step, variables, dataset, key=key, batch_size=8)
    negated = jax.tree.map(lambda x: -x, variables)
    two = run_eval_step(step, negated, dataset, key=key, batch_size=8)
    chex.assert_trees_all_equal(one.correct, ~two.correct)


def test_non_finite_logits_are_counted_and_refused():
    dataset, variables = linear_problem()
    dataset.images[5] = 255
    dataset.images[9] = 255

    class Broken(Linear):
        @nn.compact
        def __call__(self, images, *, train=False):
            white = (images == 1).all((1, 2, 3))
            logits = super().__call__(images, train=train)
            return jnp.where(white[:, None], jnp.nan, logits)

    with pytest.raises(ValueError, match="logits of 2 of 37 examples are not finite"):
        run_eval_step(
            make_eval_step(Broken()),
            variables,
            dataset,
            key=jax.random.key(0),
            batch_size=10,
        )


def test_attacks_that_leave_the_ball_are_refused():
    dataset, variables = linear_problem()
    options = {"key": jax.random.key(0), "batch_size": 10, "ball": Ball(EPS, "linf")}
    far = make_eval_step(Linear(), lambda f, x, y, key: x + 0.11)
    with pytest.raises(ValueError, match="10 of 10 adversarial images are outside"):
        run_eval_step(far, variables, dataset, **options)


@pytest.mark.parametrize("bad", [np.nan, 1.1, -0.1])
def test_check_ball_names_the_images(bad):
    images = np.full((4, 2, 2, 1), 255, np.uint8)
    x_adv = np.ones((4, 2, 2, 1), np.float32)
    check_ball(x_adv, images, Ball(0.05, "l1"))
    x_adv[1, 0, 0, 0] = bad
    with pytest.raises(ValueError, match=r"1 of 4 .*`bounds`"):
        check_ball(x_adv, images, Ball(2.0, "linf"))


def test_impossible_batches_are_refused():
    dataset, variables = linear_problem()
    step = make_eval_step(Linear())
    options = {"key": jax.random.key(0)}
    none = np.zeros(0, int)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        run_eval_step(step, variables, dataset, batch_size=0, **options)
    with pytest.raises(ValueError, match="no examples"):
        run_eval_step(step, variables, dataset, batch_size=9, indices=none, **options)


def test_progress_is_told_every_batch():
    dataset, variables = linear_problem()
    told = []

    class Recorder:
        def update(self, done, total, label, values):
            told.append((done, total, label, values["accuracy"]))

        def close(self):
            pass

    run = run_eval_step(
        make_eval_step(Linear()),
        variables,
        dataset,
        key=jax.random.key(0),
        batch_size=15,
        progress=Recorder(),
        label="clean",
    )
    assert [row[:3] for row in told] == [(n, 37, "clean") for n in (15, 30, 37)]
    assert told[-1][3] == pytest.approx(run.accuracy)


def test_levels_in_float32_are_no_change_in_l1():
    """Of 3,072 numbers the rounding of 8 bits adds up to more than rounding of one."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    x_adv = images.astype(np.float32) / np.float32(255)
    inwards = np.where(x_adv[:, :2, 0, 0] > 0.5, -1, 1).astype(np.float32)
    x_adv[:, 0, 0, 0] += 0.2 * inwards[:, 0]
    ball = Ball(0.2, "l1")
    assert check_ball(x_adv, images, ball)["l1"].max() < 0.2002
    x_adv[:, 1, 0, 0] += 1e-3 * inwards[:, 1]
    with pytest.raises(ValueError, match="l1 ball"):
        check_ball(x_adv, images, ball)
