import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.models import integrators

ORDERS = {
    "euler": 1, "res": 1, "midpoint": 2, "ssp2": 2, "ssp3": 3, "rk4": 4, "ssprk54": 4,
}  # fmt: skip


def solve(step, steps):
    """Integrates u' = -u from 1 to time 1; the step size sits in the field."""
    u = np.float64(1.0)
    for _ in range(steps):
        u = step(lambda u: -u / steps, u)
    return u


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_order_of_convergence(name, order):
    step = integrators.get(name)
    coarse, fine = (abs(solve(step, n) - np.exp(-1)) for n in (10, 20))
    assert np.log2(coarse / fine) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("name", integrators.METHODS)
def test_stability_polynomial(name):
    """On a linear field a step is a polynomial: exp's series up to the order."""
    z = 0.3
    terms = [1, z, z**2 / 2, z**3 / 6, z**4 / 24]
    want = {
        "midrk2": (1 + z / 2) * (1 + z),
        "ssprk54": sum(terms) + z**5 / 120 * 0.5373,  # no closed form: loose below
    }.get(name, sum(terms[: ORDERS.get(name, 0) + 1]))
    got = integrators.get(name)(lambda u: z * u, 1.0)
    assert got == pytest.approx(want, abs=1e-5 if name == "ssprk54" else 1e-12)


def test_ark_is_the_papers_form():
    with jax.enable_x64(True):
        a, b = 0.7, -0.4
        f = jnp.sin
        u = jnp.linspace(-2, 3, 5)
        a21, b10 = 1 / (1 + np.exp(-a)), 1 / (1 + np.exp(-b))
        a20, b21 = 1 - a21, 1 / (2 * b10)
        b20 = 1 - b21 - a21 * b10
        u1 = u + b10 * f(u)
        want = a20 * u + b20 * f(u) + a21 * u1 + b21 * f(u1)
        chex.assert_trees_all_close(integrators.ark(a, b)(f, u), want, rtol=1e-13)
        grads = jax.grad(lambda a, b: integrators.ark(a, b)(f, u).sum(), (0, 1))(a, b)
        assert grads[0] == 0 != grads[1]


@pytest.mark.parametrize("b", [-1.0, 0.0, 2.0])
def test_ark_is_of_second_order(b):
    step = integrators.ark(0.0, b)
    with jax.enable_x64(True):
        coarse, fine = (abs(solve(step, n) - np.exp(-1)) for n in (10, 20))
    assert np.log2(coarse / fine) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize(
    ("name", "calls"),
    [("euler", 1), ("midpoint", 2), ("midrk2", 2), ("ssp2", 2), ("ssp3", 3),
     ("rk4", 4), ("ssprk54", 5), ("ark", 2)],
)  # fmt: skip
def test_evaluations(name, calls):
    seen = []
    step = integrators.ark(0.1, 0.2) if name == "ark" else integrators.get(name)
    step(lambda u: seen.append(u) or u, jnp.ones(2))
    assert len(seen) == calls


def test_unknown_names():
    with pytest.raises(ValueError, match=r"'rk5'.*Did you mean 'rk4'"):
        integrators.get("rk5")
    with pytest.raises(ValueError, match=r"ark\(a, b\)"):
        integrators.get("ark")
