"""Steps that a thread compiles while a pass runs."""

import threading

import chex
import jax

from jaxrobust.evaluation.ahead import CompiledAhead


def test_a_pass_waits_for_what_is_compiled_and_takes_back_what_is_not():
    started, go, done = threading.Event(), threading.Event(), []

    def first():
        started.set()
        go.wait(10)
        done.append("first")

    with CompiledAhead(
        {"first": first, "second": lambda: done.append("second")}
    ) as ahead:
        assert started.wait(10)
        ahead.wait("second")  # not begun: the pass compiles it itself
        ahead.wait("unknown")
        go.set()
        ahead.wait("first")
        assert done == ["first"]
    assert done == ["first"]


def test_an_error_is_left_to_the_pass_and_ends_nothing():
    def fails():
        raise ValueError("no such network")

    with CompiledAhead({"a": fails, "b": lambda: None}) as ahead:
        ahead.wait("a")
        ahead.wait("b")


def test_a_call_finds_what_was_compiled_for_its_shape():
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(lambda x: 2 * x, n=1))
    x = jax.numpy.ones((2, 3))
    with CompiledAhead({"a": lambda: step.lower(x).compile()}) as ahead:
        ahead.wait("a")
    chex.assert_trees_all_close(step(x), 2 * x)
