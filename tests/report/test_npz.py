"""Arrays of evaluation.npz are read under the names that they are written under."""

import numpy as np
import pytest

from jaxrobust.results import npz


def test_names_that_others_rely_on():
    assert npz.predicted("pgd20") == "predicted_pgd20"
    assert npz.predicted(npz.CLEAN) == "predicted_clean"
    assert npz.robust("aa", "square") == "robust_aa/square"
    assert npz.distances("pooled") == "distances/pooled"
    assert npz.class_names({}) == []


def test_a_group_comes_back_and_may_be_absent():
    zeros = np.zeros(2)
    group = npz.FeaturesArrays(features=zeros, features_labels=np.ones(2))
    assert list(group.named()) == ["features", "features_labels"]
    again = npz.FeaturesArrays.of(group.named() | {"other": zeros})
    assert again is not None
    np.testing.assert_array_equal(again.features_labels, np.ones(2))
    assert npz.FeaturesArrays.of({}) is None
    assert npz.FeaturesArrays.of({"features": np.zeros(0)}) is None
    with pytest.raises(TypeError, match="features_labels"):
        npz.FeaturesArrays.of({"features": zeros})


def test_arrays_of_an_analysis_from_outside_keep_their_names():
    held = npz.with_label("mine", {"levels": np.arange(3)}) | {"mine2/x": np.ones(1)}
    assert list(npz.under_label("mine", held)) == ["levels"]
