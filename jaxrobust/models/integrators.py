"""Explicit one-step integrators of du/dt = f(u), as pure functions of f.

A residual block is one step of size 1 (Kim et al., ECCV 2020, arXiv 2010.10047,
section 3). A step works for any f that maps a shape to itself.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust._checks import nearest_match

State = Float[Array, "*shape"]
Field = Callable[[State], State]
Step = Callable[[Field, State], State]


def euler(f: Field, u: State) -> State:
    """First order: u + f(u), the residual block."""
    return u + f(u)


def midpoint(f: Field, u: State) -> State:
    """Second order, the textbook midpoint rule: u + f(u + f(u) / 2)."""
    return u + f(u + f(u) / 2)


def midrk2(f: Field, u: State) -> State:
    """The released `midrk2`: m + f(m) with m = u + f(u) / 2.

    This is a half step and then a whole one, not the midpoint rule, so it is not
    consistent with du/dt = f(u) in unit time.
    """
    middle = u + f(u) / 2
    return middle + f(middle)


def ssp2(f: Field, u: State) -> State:
    """Second order, strong-stability preserving: Heun (equation 9)."""
    return (u + euler(f, euler(f, u))) / 2


def ssp3(f: Field, u: State) -> State:
    """Third order, strong-stability preserving: Shu and Osher (equation 10)."""
    u2 = 3 / 4 * u + 1 / 4 * euler(f, euler(f, u))
    return 1 / 3 * u + 2 / 3 * euler(f, u2)


def rk4(f: Field, u: State) -> State:
    """Fourth order: the classical Runge-Kutta method."""
    k1 = f(u)
    k2 = f(u + k1 / 2)
    k3 = f(u + k2 / 2)
    k4 = f(u + k3)
    return u + (k1 + 2 * k2 + 2 * k3 + k4) / 6


def ssprk54(f: Field, u: State) -> State:
    """Fourth order in five stages, strong-stability preserving.

    Spiteri and Ruuth, SIAM J. Numer. Anal. 40(2), 2002, table 3.
    """
    u1 = u + 0.391752226571890 * f(u)
    u2 = 0.444370493651235 * u + 0.555629506348765 * u1 + 0.368410593050371 * f(u1)
    u3 = 0.620101851488403 * u + 0.379898148511597 * u2 + 0.251891774271694 * f(u2)
    # The next stage and the result need it; f is the costly part.
    slope = f(u3)
    u4 = 0.178079954393132 * u + 0.821920045606868 * u3 + 0.544974750228521 * slope
    return (
        0.517231671970585 * u2
        + 0.096059710526147 * u3
        + 0.063692468666290 * slope
        + 0.386708617503269 * u4
        + 0.226007483236906 * f(u4)
    )


def ark(a: Float[Array, ""] | float, b: Float[Array, ""] | float) -> Step:
    """Makes the adaptive second-order step of two learned scalars (equations 13-15).

    With s the logistic function: u + (1 - c) f(u) + c f(u + s(b) f(u)), where
    c = 1 / (2 s(b)). This is the paper's form expanded: a cancels in it (its gradient
    is 0) and is there because trained weights have it. The step evaluates f twice.
    """
    del a

    def step(f: Field, u: State) -> State:
        # The scalars are float32; a float64 state keeps its digits.
        b10 = jax.nn.sigmoid(jnp.asarray(b)).astype(jnp.result_type(b, u))
        weight = 1 / (2 * b10)
        slope = f(u)
        return u + (1 - weight) * slope + weight * f(u + b10 * slope)

    return step


METHODS: dict[str, Step] = {
    "res": euler,
    "euler": euler,
    "midpoint": midpoint,
    "midrk2": midrk2,
    "ssp2": ssp2,
    "ssp3": ssp3,
    "rk4": rk4,
    "ssprk54": ssprk54,
}


def get(name: str) -> Step:
    """Returns the step `(f, u) -> u` of a name in `METHODS`.

    Raises:
      ValueError: for an unknown name, with the nearest match.
    """
    if name in METHODS:
        return METHODS[name]
    if name == "ark":
        raise ValueError("integrator 'ark' has two parameters; use ark(a, b).")
    hint = nearest_match(name, (*METHODS, "ark"))
    raise ValueError(f"unknown integrator {name!r}. {hint}")
