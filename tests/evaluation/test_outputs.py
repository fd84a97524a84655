"""What an evaluation leaves on disk: dtypes and flags per stage."""

import chex
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from jaxrobust import data
from jaxrobust.evaluation import passes, setting, step
from jaxrobust.evaluation.autoattack.entry import AutoAttack

LEVELS = np.arange(256, dtype=np.float32) / np.float32(255)


def test_every_level_survives_half_precision():
    images = LEVELS.reshape(1, 16, 16, 1)
    stored = passes.compact(images)
    chex.assert_type(stored, np.float16)
    restored = np.rint(stored.astype(np.float32) * 255) / np.float32(255)
    chex.assert_trees_all_equal(restored, images)


@given(
    npst.arrays(np.uint8, (2, 3, 3, 1)),
    st.integers(0, 17),
    st.floats(-(2**-10), 2**-10, width=32),
)
def test_nothing_else_is_shortened(levels, place, shift):
    """One value that is no level, by however little, keeps all in float32."""
    images = LEVELS[levels]
    flat = images.reshape(-1)
    flat[place] += np.float32(shift)
    on_grid = flat[place] in LEVELS
    stored = passes.compact(images)
    chex.assert_type(stored, np.float16 if on_grid else np.float32)
    if not on_grid:
        chex.assert_trees_all_equal(stored, images)


def test_flags_of_each_stage_of_an_ensemble():
    labels = np.array([0, 1, 1], np.int32)
    dataset = data.Dataset(np.zeros((3, 2, 2, 1), np.uint8), labels, ("a", "b"))
    of = setting.Setting(
        {}, dataset, np.arange(3), 3, None, None, None, None, "highest"
    )

    def run(predicted, **stages):
        predicted = np.array(predicted)
        correct = predicted == labels
        empty = np.zeros(3), np.zeros((3, 2)), np.zeros((0, 2, 2, 1)), {}
        return step.EvalRun(correct, predicted, *empty, stages)

    first, both = np.array([True, False, True]), np.array([True, False, False])
    runs = {
        "clean": run([0, 1, 1]),
        "autoattack": run([0, 0, 0], **{"apgd-ce": first, "square": both}),
    }
    entry = AutoAttack("autoattack", "autoattack", "linf", 0.1, "0.1", {})
    arrays = passes.predictions(passes.Passes(of, [entry], runs, {}, None))
    chex.assert_trees_all_equal(arrays["robust_autoattack"], both)
    chex.assert_trees_all_equal(arrays["robust_autoattack/apgd-ce"], first)
    chex.assert_trees_all_equal(arrays["robust_autoattack/square"], both)
    chex.assert_trees_all_equal(arrays["robust"], both)
