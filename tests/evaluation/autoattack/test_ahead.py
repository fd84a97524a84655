"""The next stage of AutoAttack is compiled while one runs."""

import threading

import chex
import jax
import numpy as np
import pytest

from jaxrobust import evaluation
from jaxrobust.evaluation.autoattack import stage
from jaxrobust.evaluation.autoattack.ahead import Ahead


def net(x):
    """Far from linear, so that FAB and Square have something to do."""
    w = np.random.default_rng(0).normal(size=(x[0].size, 3)).astype(np.float32)
    return jax.numpy.tanh(x.reshape(len(x), -1) - 0.5) @ w


def run(monkeypatch):
    """Returns the result, and of each compilation stage, slots and whether ahead."""
    seen, compiled = [], stage.compiled

    def noted(setup, attack, logits, queue):
        ahead = threading.current_thread() is not threading.main_thread()
        seen.append((attack.name, len(queue.slot_image), ahead))
        return compiled(setup, attack, logits, queue)

    monkeypatch.setattr(stage, "compiled", noted)
    x = np.random.default_rng(1).uniform(size=(12, 4, 4, 1)).astype(np.float32)
    y = np.asarray(net(x).argmax(1), np.int32)
    found = evaluation.autoattack(
        net, x, y, key=jax.random.key(0), eps=0.05, progress=False
    )
    return found, seen


def test_the_next_stage_is_compiled_in_a_thread(monkeypatch):
    found, seen = run(monkeypatch)
    assert found.robust.any()
    begun = {name: slots for name, slots, ahead in seen if ahead}
    # Where a stage is over before the thread gets to the next, that is left out.
    assert begun
    assert set(begun) <= {"apgd-t", "fab-t", "square"}
    used = {name: slots for name, slots, ahead in seen if not ahead}
    assert list(used) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    # What is run does not depend on what was compiled.
    monkeypatch.setattr(Ahead, "look", lambda *args: None)
    alone, seen = run(monkeypatch)
    chex.assert_trees_all_equal(found.robust, alone.robust)
    assert {name: slots for name, slots, _ in seen} == used


@pytest.mark.full
def test_an_error_in_the_thread_is_no_error(monkeypatch):
    """The stage is compiled again, where an error reaches the caller."""
    compiled = stage.compiled

    def fails(*args):
        if threading.current_thread() is not threading.main_thread():
            raise MemoryError
        return compiled(*args)

    whole, _ = run(monkeypatch)
    monkeypatch.setattr(stage, "compiled", fails)
    again, _ = run(monkeypatch)
    chex.assert_trees_all_equal(again.robust, whole.robust)
