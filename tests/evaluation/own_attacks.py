"""Attacks as users write them, for tests: texts for annotations, none, mistakes."""

from __future__ import annotations

from typing import Literal, TypedDict, Unpack

import jax.numpy as jnp

MASK = jnp.zeros((1, 4, 4, 1)).at[:, :2].set(1.0)


def texts(
    logits_fn, x, y, key=None, *, eps: float, strong: bool = True, times: int = 1
):
    """Annotations are texts in this file."""
    return x if not strong else jnp.clip(x + times * eps / 4, 0, 1)


def plain(logits_fn, x, y, key=None, *, eps, strong=True, times=1, way="up"):
    """No annotations: defaults say what is meant."""
    return texts(logits_fn, x, y, key, eps=eps, strong=strong, times=times)


def masked(logits_fn, x, y, key=None, *, eps):
    """For images of one shape, and three classes."""
    assert logits_fn(x).shape[1] == 3
    return jnp.clip(x + eps * MASK, 0, 1)


def any_options(logits_fn, x, y, **options):
    """Takes what comes."""
    return jnp.clip(x + options["eps"], 0, 1)


def without_radius(logits_fn, x, y, key=None):
    """Does not say how far it goes."""
    return 1 - x


def nothing(logits_fn, x, y, key=None, *, eps):
    """Forgets to return."""


def pair(logits_fn, x, y, key=None, *, eps):
    """Returns more than images."""
    return x, y


def one(logits_fn, x, y, key=None, *, eps):
    """Returns one image of many."""
    return x[:1]


def levels(logits_fn, x, y, key=None, *, eps):
    """Returns whole numbers."""
    return (x * 255).astype("uint8")


class Options(TypedDict, total=False):
    """What `typed` takes."""

    strength: float
    way: Literal["up", "down"]


def typed(logits_fn, x, y, key=None, *, eps, **options: Unpack[Options]):
    """Options as a table with types."""
    return jnp.clip(x + options.get("strength", 1.0) * eps, 0, 1)


def of_list(logits_fn, x, y, key=None, *, eps, ks: list[int] = (3, 4)):
    """A list."""
    return x


def keyless(logits_fn, x, y, *, eps):
    """Takes no key."""
    return x


def bare(*args, **options):
    """As a decorator without functools.wraps leaves it."""
    return any_options(*args, **options)


class Drawn:
    """A class in place of an object of it."""

    def __call__(self, logits_fn, x, y, key=None, *, eps):
        return x
