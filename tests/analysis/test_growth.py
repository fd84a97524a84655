import chex
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import analysis


def features(h, factor):
    return {"stage1/in": h, "stage1/out": factor * h, "penultimate": h}


@pytest.mark.parametrize("p", [1, 2])
def test_a_linear_stage_grows_by_its_factor(p):
    h = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 4, 2)))
    noise = jnp.asarray(np.random.default_rng(1).normal(size=h.shape))
    growth = analysis.growth_ratios(features(h, 3.0), features(h + noise, 3.0), p=p)
    assert list(growth) == ["stage1"]
    chex.assert_trees_all_close(growth["stage1"].ratio, 3.0, rtol=1e-5)
    assert growth["stage1"].perturbed.all()


def test_norms_by_hand():
    clean = {"stage1/in": jnp.zeros((1, 2)), "stage1/out": jnp.zeros((1, 2))}
    adv = {"stage1/in": jnp.array([[3.0, -4.0]]), "stage1/out": jnp.array([[6.0, 8.0]])}
    adv["stage1/out"] = jnp.array([[0.0, 10.0]])
    ratios = [analysis.growth_ratios(clean, adv, p=p)["stage1"].ratio for p in (1, 2)]
    chex.assert_trees_all_close(
        np.asarray(ratios), np.asarray([[10 / 7], [2.0]]), rtol=1e-6
    )


def test_unperturbed_images_are_left_out_and_counted():
    h = jnp.ones((3, 2, 2, 1))
    adv = h.at[0].add(1.0)
    growth = analysis.growth_ratios(features(h, 2.0), features(adv, 2.0))
    assert growth["stage1"].perturbed.tolist() == [True, False, False]
    mean = analysis.mean_growth([growth])["stage1"]
    assert mean == (2.0, 1)
    none = analysis.mean_growth(
        [analysis.growth_ratios(features(h, 2), features(h, 2))]
    )
    assert np.isnan(none["stage1"].mean)
    assert none["stage1"].images == 0


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_do_not_matter(batch_size):
    generator = np.random.default_rng(0)
    x = generator.uniform(size=(7, 4, 4, 1)).astype("f")
    x_adv = x + generator.normal(size=x.shape).astype("f")
    x_adv[4] = x[4]

    def features_fn(x):
        return {"stage1/in": x, "stage1/out": jnp.tanh(2.0 * x)}

    for p in (1, 2):
        parts = [
            analysis.growth_ratios(features_fn(x[b]), features_fn(x_adv[b]), p=p)
            for b in (slice(i, i + batch_size) for i in range(0, 7, batch_size))
        ]
        rows = [
            np.linalg.norm((np.tanh(2 * b) - np.tanh(2 * a)).ravel(), p)
            / np.linalg.norm((b - a).ravel(), p)
            for i, (a, b) in enumerate(zip(x, x_adv, strict=True))
            if i != 4
        ]
        mean = analysis.mean_growth(parts)["stage1"]
        assert mean.mean == pytest.approx(np.mean(rows), rel=1e-5)
        assert mean.images == 6


def test_refusals():
    h = jnp.ones((1, 2))
    with pytest.raises(ValueError, match="`p` must be 1 or 2, got 3"):
        analysis.growth_ratios(features(h, 1), features(h, 1), p=3)
    with pytest.raises(ValueError, match=r"no stage features.*penultimate"):
        analysis.growth_ratios({"penultimate": h}, {"penultimate": h})
