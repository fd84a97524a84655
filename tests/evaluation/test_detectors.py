"""A detector with its threshold, and an attack that has to fool it too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrobust import attacks, preprocessing
from jaxrobust.evaluation import detectors


@given(
    st.lists(st.floats(-10, 10), min_size=1, max_size=40),
    st.floats(0, 0.99),
)
def test_no_larger_share_is_rejected_than_was_asked(scores, share):
    threshold = detectors.threshold_at(scores, share)
    rejected = (np.array(scores) > threshold).mean()
    assert rejected <= share + 1e-9
    # The next lower threshold would reject too many.
    lower = [score for score in scores if score < threshold]
    if lower:
        assert (np.array(scores) > max(lower)).mean() > share - 1e-9


@pytest.mark.parametrize("scores", [[], [0.1, float("nan")]])
def test_scores_that_set_no_threshold(scores):
    with pytest.raises(ValueError, match="`scores` must be"):
        detectors.threshold_at(scores)


def linear(x):
    """Class 1 where the mean is above a half."""
    score = 10 * (x.mean((1, 2, 3)) - 0.5)
    return jnp.stack([jnp.zeros_like(score), score], -1)


def contrast(x):
    """A detector: where the upper half is brighter than the lower one."""
    return jnp.abs(x[:, :2].mean((1, 2, 3)) - x[:, 2:].mean((1, 2, 3)))


def test_the_joint_attack_fools_both_where_the_other_is_caught():
    # Little in the lower half can move: to move the mean the attack has to raise the
    # upper half, and is caught as soon as the halves differ by more than .1.
    x = jnp.full((4, 4, 4, 1), 0.45)
    y = jnp.zeros(4, int)
    eps = jnp.concatenate([jnp.full((4, 2, 4, 1), 0.3), jnp.full((4, 2, 4, 1), 0.1)], 1)
    loss = detectors.fooling_both(linear, contrast, 0.1, spread=0.1)
    given = {"eps": eps, "step_size": 0.02, "steps": 30, "random_start": False}

    def stand(x_adv):
        logits, scores = linear(x_adv), contrast(x_adv)
        return detectors.stands(logits, y, scores, 0.1, attacked=True)

    key = jax.random.key(0)
    unaware = attacks.pgd(linear, x, y, key=key, loss="margin", **given)
    aware = attacks.pgd(linear, x, y, key=key, loss=loss, **given)
    assert (linear(unaware).argmax(1) == 1).all()
    assert stand(unaware).all()
    assert not stand(aware).any()
    assert (loss.fn(aware, y) > 0).all()


def test_squeezing_moves_a_prediction_by_the_distance_of_probabilities():
    x = jnp.array([0.1, 0.4, 0.9]).reshape(3, 1, 1, 1)
    squeezed = preprocessing.bit_depth(linear, bits=1)
    found = detectors.feature_squeezing(linear, [squeezed])(x)
    p = jax.nn.softmax(linear(x))
    q = jax.nn.softmax(linear(jnp.round(x)))
    np.testing.assert_allclose(found, np.abs(p - q).sum(-1), rtol=1e-6)
    with pytest.raises(ValueError, match="at least one"):
        detectors.feature_squeezing(linear, [])
    with pytest.raises(ValueError, match="`spread` must be above 0"):
        detectors.fooling_both(linear, contrast, 0.1, spread=0.0)


LOGITS, Y = jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([0, 0])
SCORES = jnp.array([0.9, 0.1])
TWO = jnp.full((2, 4, 4, 1), 0.5)


def stands(logits=LOGITS, y=Y, scores=SCORES, threshold=0.5):
    return detectors.stands(logits, y, scores, threshold, attacked=True)


def joint(detector=contrast, threshold=0.1, spread=1.0):
    return detectors.fooling_both(linear, detector, threshold, spread).fn(TWO, Y)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: stands(scores=SCORES[:, None]), r"`scores` .* got \(2, 1\)"),
        (lambda: stands(scores=SCORES[:1]), r"`scores` .* got \(1,\)"),
        (lambda: stands(scores=Y), "`scores` must be floating"),
        (lambda: stands(y=Y[:1]), "`y` must hold one label per image"),
        (lambda: stands(y=Y + 2), "`y` holds labels from 2 to 2"),
        (lambda: stands(y=jax.nn.one_hot(Y, 2)), "`y` must hold integer labels"),
        (lambda: stands(logits=LOGITS[:, 0]), r"`logits` must have shape \[B, K\]"),
        (lambda: stands(logits=LOGITS * jnp.nan), "`logits` .* NaN in 2 of 2 rows"),
        (lambda: stands(threshold=float("nan")), "`threshold` must be one number"),
        (lambda: stands(threshold=[0.1, 0.2]), "`threshold` must be one number"),
        (lambda: joint(threshold=float("nan")), "`threshold` must be one finite"),
        (lambda: joint(spread=float("inf")), "`spread` must be above 0 and finite"),
        (lambda: joint(detector=3), "`detector` must be a function"),
        (lambda: joint(lambda x: contrast(x)[:, None]), r"`detector\(x\)` must be one"),
        (lambda: detectors.feature_squeezing(linear, linear), "`squeezed` .* a list"),
        (
            lambda: detectors.feature_squeezing(linear, [3]),
            r"`squeezed\[0\]` must be a function",
        ),
        (
            lambda: detectors.feature_squeezing(linear, [lambda x: x[:, 0, 0]])(TWO),
            r"`squeezed` must return logits like .* \(2, 2\), got \(2, 1\)",
        ),
        (lambda: detectors.threshold_at(np.ones((3, 2))), r"`scores` .*\(3, 2\)"),
        (lambda: detectors.threshold_at(["a"]), "`scores` must be a number"),
        (lambda: detectors.threshold_at([1.0], "0.4"), "`false_rejection` must be a"),
        (lambda: detectors.threshold_at([1.0], float("nan")), "`false_rejection`"),
    ],
)
def test_bad_input_is_told_with_its_argument(call, match):
    with pytest.raises((ValueError, TypeError), match=match):
        call()


def test_nothing_is_above_an_infinite_threshold():
    assert stands(threshold=float("inf")).tolist() == [True, False]
    traced = jax.jit(lambda *given: stands(*given))(LOGITS, Y, SCORES, 0.5)
    assert traced.tolist() == stands().tolist() == [True, False]
