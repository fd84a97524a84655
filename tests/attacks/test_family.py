"""An attack from outside, made of what `attacks.family` offers."""

import dataclasses
from typing import Unpack

import chex
import jax
import jax.numpy as jnp
import pytest

from jaxrobust import attacks
from jaxrobust.attacks import family

X = jax.random.uniform(jax.random.key(0), (4, 5, 5, 1))
W = jax.random.normal(jax.random.key(1), (25, 3))
Y = jnp.arange(4) % 3


@dataclasses.dataclass(frozen=True)
class Astray(family.Ascent):
    """PGD that turns around in a share of its steps."""

    share: float = 0.5
    random = "the sign of a step"

    def look(self, problem, keys, i, x):
        grad, at = super().look(problem, keys, i, x)
        drawn = family.fold(keys, 0x666C69, i)
        astray = jax.vmap(lambda key: jax.random.bernoulli(key, self.share))(drawn)
        return jnp.where(astray[:, None, None, None], -grad, grad), at


@family.shares(family.BallOptions)
def astray(logits_fn, x, y, *, eps, share=0.5, **options: Unpack[family.BallOptions]):
    """PGD that turns around."""
    method = Astray(steps=4, share=share)
    return family.iterate(method, logits_fn, x, y, eps, eps / 3, **options)


def net(x):
    return jnp.tanh(x.reshape(len(x), -1) @ W)


def test_it_is_pgd_where_nothing_is_drawn():
    key = jax.random.key(2)
    given = {"key": key, "eps": 0.2, "norm": "l2"}
    plain = attacks.pgd(net, X, Y, step_size=0.2 / 3, steps=4, random_start=False,
                        **given)  # fmt: skip
    chex.assert_trees_all_equal(astray(net, X, Y, share=0.0, **given), plain)
    lost = astray(net, X, Y, **given)
    assert jnp.abs(lost - plain).max() > 0.01
    chex.assert_trees_all_equal(lost, jax.jit(lambda x: astray(net, x, Y, **given))(X))


def test_it_asks_for_a_key_and_knows_the_shared_options():
    with pytest.raises(ValueError, match="the sign of a step"):
        astray(net, X, Y, eps=0.1)
    with pytest.raises(TypeError, match="Did you mean 'norm'"):
        astray(net, X, Y, eps=0.1, nrm="l2")
