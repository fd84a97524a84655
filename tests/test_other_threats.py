"""Threats that are no ball of a norm: closed forms, and what Foolbox makes."""

import pathlib
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.threat import colour, patches, spatial, union

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden" / "spatial.npz"
X = jax.random.uniform(jax.random.key(0), (2, 6, 6, 3))


def poses(*pose):
    return jnp.tile(jnp.array(pose, jnp.float32), (2, 1))


def test_no_pose_flow_or_colour_is_the_image():
    chex.assert_trees_all_equal(spatial.rotate_translate(X, poses(0, 0, 0)), X)
    chex.assert_trees_all_equal(spatial.flow(X, jnp.zeros((2, 6, 6, 2))), X)
    chex.assert_trees_all_equal(colour.recolor(X, jnp.zeros((2, 4, 4, 4, 3))), X)


@pytest.mark.parametrize("down", [-2, 0, 1])
@pytest.mark.parametrize("right", [-1, 3])
def test_whole_pixels_are_a_shift(down, right):
    moved = spatial.rotate_translate(X, poses(0, down, right), fill=0.25)
    whole = jnp.pad(X, ((0, 0), (3, 3), (3, 3), (0, 0)), constant_values=0.25)
    expected = whole[:, 3 - down : 9 - down, 3 - right : 9 - right]
    chex.assert_trees_all_equal(moved, expected)
    field = jnp.broadcast_to(-jnp.array([down, right], jnp.float32), (2, 6, 6, 2))
    chex.assert_trees_all_equal(spatial.flow(X, field, fill=0.25), expected)


@pytest.mark.parametrize("turns", [-1, 1, 2])
def test_right_angles_are_rot90(turns):
    moved = spatial.rotate_translate(X, poses(90 * turns, 0, 0))
    chex.assert_trees_all_close(moved, jnp.rot90(X, turns, (1, 2)), atol=3e-6)


def test_rotations_come_before_translations():
    moved = spatial.rotate_translate(X, poses(90, 1, 2))
    expected = spatial.rotate_translate(jnp.rot90(X, 1, (1, 2)), poses(0, 1, 2))
    chex.assert_trees_all_close(moved, expected, atol=3e-6)


def test_poses_are_those_of_foolbox():
    """Which shifts before it rotates, by (n - 1) / n of what it is asked for."""
    with np.load(GOLDEN) as data:
        x, asked, moved = (data[k] for k in ("x", "asked", "moved"))
    degrees, across, down = asked.T
    angle, share = np.deg2rad(degrees), (len(x) - 1) / len(x)
    rows = -share * (np.cos(angle) * down - np.sin(angle) * across)
    columns = -share * (np.sin(angle) * down + np.cos(angle) * across)
    pose = jnp.stack([degrees, rows, columns], axis=1)
    found = spatial.rotate_translate(jnp.tile(x, (len(pose), 1, 1, 1)), pose)
    chex.assert_trees_all_close(found, moved, rtol=0, atol=5e-6)


def test_roughness_counts_each_pair_of_neighbours_twice():
    field = jnp.zeros((1, 3, 3, 2)).at[0, 1, 1].set(jnp.array([3.0, 4.0]))
    chex.assert_trees_all_close(spatial.roughness(field), jnp.array([2 * 4 * 5.0]))
    slope = jax.grad(lambda f: spatial.roughness(f).sum())(jnp.zeros((1, 3, 3, 2)))
    chex.assert_trees_all_equal(slope, jnp.zeros_like(slope))


def test_colours_are_changed_alike_and_no_further_than_the_table_says():
    table = 0.1 * jax.random.uniform(jax.random.key(1), (2, 4, 4, 4, 3), minval=-1)
    x = X.at[:, 0].set(X[:, 1])
    found = colour.recolor(x, table)
    chex.assert_trees_all_equal(found[:, 0], found[:, 1])
    assert jnp.abs(found - x).max() <= 0.1 + 1e-6
    # At a colour of the table its entry is added.
    grey = jnp.full((1, 1, 1, 1), 1 / 3)
    one = colour.recolor(grey, jnp.arange(4.0).reshape(1, 4, 1) / 10)
    chex.assert_trees_all_close(one, grey + 0.1, atol=1e-6)
    wide = colour.recolor(2 * X - 1, 2 * table, bounds=(-1.0, 1.0))
    chex.assert_trees_all_close(wide, 2 * colour.recolor(X, table) - 1, atol=1e-5)


def test_a_patch_on_whole_pixels_is_a_copy():
    patch = jax.random.uniform(jax.random.key(1), (2, 3, 3))
    place = jnp.array([[1.5, 3, 1, 0], [3.5, 1, 1, 180]])
    found = patches.paste(X, patch, place)
    chex.assert_trees_all_equal(found[0], X[0].at[1:3, 2:5].set(patch))
    turned = X[1].at[3:5, 0:3].set(patch[::-1, ::-1])
    chex.assert_trees_all_close(found[1], turned, atol=1e-5)
    white = patches.paste(
        X, jnp.ones((1, 1, 3)), jnp.tile(jnp.array([2.0, 2, 3, 0]), (2, 1))
    )
    assert (white >= X - 1e-6).all()  # mixed with the image at its edges
    chex.assert_trees_all_equal(white[:, 2, 2], jnp.ones((2, 3)))


def test_patches_are_drawn_inside():
    keys = jax.random.split(jax.random.key(2), 200)
    place = patches.places(keys, (8, 6), (3, 2), scale=(0.5, 1.5), rotation=20.0)
    half = place[:, 2:3] * jnp.array([[3, 2]]) / 2
    low, high = place[:, :2] - half + 0.5, place[:, :2] + half + 0.5
    assert (low >= -1e-5).all()
    assert (high <= jnp.array([[8, 6]]) + 1e-5).all()
    assert ((place[:, 2] >= 0.5) & (place[:, 2] <= 1.5)).all()
    assert jnp.abs(place[:, 3]).max() <= 20
    whole = patches.places(keys, (8, 6), (3, 2))
    corners = whole[:, :2] - jnp.array([[1.0, 0.5]])
    chex.assert_trees_all_equal(corners, jnp.round(corners))
    assert len({tuple(c) for c in corners.tolist()}) == 6 * 5


def test_a_union_takes_the_nearest_ball():
    delta = jnp.zeros((2, 4)).at[0, 0].set(0.6).at[1].set(0.1)
    radii: dict[Any, float] = {"linf": 0.1, "l2": 0.5, "l1": 1.2}
    found = union.distance(delta, jnp.zeros_like(delta), radii)
    chex.assert_trees_all_close(found, jnp.array([0.5, 0.4 / 1.2]), rtol=1e-6)
