"""Suites as configs write them, and the messages about mistakes."""

import pytest

from jaxrobust.evaluation import suite


@pytest.mark.parametrize(
    ("text", "radius"), [("8/255", 8 / 255), ("0.3", 0.3), (0.5, 0.5), (1, 1), ("0", 0)]
)
def test_radii(text, radius):
    assert suite.parse_radius(text) == radius


@pytest.mark.parametrize("bad", ["8/0", "x", "-1/255", -0.1, float("nan"), None, "inf"])
def test_bad_radii_are_refused(bad):
    with pytest.raises(ValueError, match=f"`eps` must be .*got {bad!r}"):
        suite.parse_radius(bad)


def test_read_keeps_order_and_parses_radii():
    table = suite.get("gradient", eps="8/255", step_size="2/255")
    entries = suite.read(table)
    assert [entry.label for entry in entries] == ["fgsm", "pgd20", "ball"]
    assert entries[1].hyperparameters["step_size"] == 2 / 255
    assert entries[1].describe()["eps_text"] == "8/255"
    assert entries[1].ball().eps == 8 / 255


def test_ssp2020_starts_at_the_image():
    table = suite.get("ssp2020", eps="8/255", step_size="2/255")
    assert table["pgd20"]["random_start"] is False


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="Did you mean 'ssp2020'"):
        suite.get("ssp2021", eps="1", step_size="1")
    with pytest.raises(ValueError, match=r"pgdd.*pgd"):
        suite.read({"a": {"name": "pgdd", "eps": "1"}})
    with pytest.raises(ValueError, match="attack 'a' of the suite has no `eps`"):
        suite.read({"a": {"name": "pgd"}})
    with pytest.raises(ValueError, match="`step_size` must be"):
        suite.read({"a": {"name": "pgd", "eps": "1", "step_size": "z", "steps": 1}})
    with pytest.raises(ValueError, match=r"`eps` must be .*-1"):
        suite.read({"a": {"name": "pgd", "eps": "-1", "steps": 1}})
