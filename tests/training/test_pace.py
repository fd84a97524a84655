"""What is said of a run that would take days."""

import time

import pytest

from jaxrobust.training import pace


@pytest.mark.parametrize(
    ("seconds", "left", "days"),
    [(0.5, 1000, None), (86.4, 1000, None), (86.5, 1000, "1 "), (60, 78200, "54.3 ")],
)
def test_days_are_told_with_what_to_do(seconds, left, days):
    text = pace.told(seconds, left, "ssp_cifar10")
    if days is None:
        assert text == ""
    else:
        assert f" {days}days" in text
        assert "--config ssp_cifar10:budget=cpu" in text


def test_the_first_steps_are_timed_but_not_what_compiles(monkeypatch):
    clock = iter([100.0, 400.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    run = pace.Pace(start=10, total=2000, name="pgd_cifar10")
    texts = [run.finished(step) for step in range(11, 20)]
    assert [bool(text) for text in texts] == [False] * 4 + [True] + [False] * 4
    assert "at 100 s for a step, the 1985 steps that are left take 2.3 days" in texts[4]
