"""Attacks of users' own: their options, shapes, and what they return."""

import jax
import jax.numpy as jnp
import pytest

from jaxrobust import attacks
from jaxrobust.evaluation import attack_text, suite

HERE = "tests.evaluation.own_attacks"
X, Y = jnp.full((2, 4, 4, 1), 0.5), jnp.array([0, 1])


def logits(x):
    return x.reshape(len(x), -1)[:, :3]


def made(name, **options):
    return attacks.get(f"{HERE}:{name}", eps=0.1, **options)(logits, X, Y, None)


@pytest.mark.parametrize("name", ["texts", "plain"])
@pytest.mark.parametrize(
    ("written", "value"),
    [("strong=false", False), ("strong=True", True), ("times=3", 3)],
)
def test_options_are_of_the_kind_that_was_meant(name, written, value):
    option = written.partition("=")[0]
    found = attack_text.parse(f"{HERE}:{name}:{written}")
    assert found[option] is value or found[option] == value
    assert type(found[option]) is type(value)


@pytest.mark.parametrize("name", ["texts", "plain"])
def test_options_of_another_kind_are_refused(name):
    for option, value in (("strong", "no"), ("times", "three")):
        with pytest.raises(TypeError, match=option):
            attack_text.parse(f"{HERE}:{name}:{option}={value}")
        with pytest.raises(TypeError, match=option):
            made(name, **{option: value})
    if name == "plain":
        assert attack_text.parse(f"{HERE}:plain:way=down")["way"] == "down"


def test_one_of_a_single_shape_is_not_tried_on_another():
    table = {"m": {"name": f"{HERE}:masked", "norm": "linf", "eps": "0.1"}}
    [entry] = suite.read(table)
    found = entry.build()(logits, X, Y, None)
    assert float(jnp.abs(found - X).max()) == pytest.approx(0.1)


def test_options_of_any_name():
    assert float(made("any_options", mine=3)[0, 0, 0, 0]) == pytest.approx(0.6)


def test_a_radius_has_somewhere_to_go():
    with pytest.raises(TypeError, match="let it take `eps`, or say by an attribute"):
        made("without_radius")


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("nothing", "got NoneType"),
        ("pair", "got tuple"),
        ("one", r"got float32 \[1, 4, 4, 1\]"),
        ("levels", r"got uint8 \[2, 4, 4, 1\]"),
    ],
)
def test_what_is_no_image_is_told(name, got):
    told = rf"attack {HERE}:{name} must return images like `x`, float32 \[2, 4, 4, 1\]"
    with pytest.raises(ValueError, match=rf"{told}, {got}"):
        jax.jit(lambda: made(name))()


def test_options_of_a_typed_dict():
    found = attack_text.parse(f"{HERE}:typed:strength=2,way=down")
    assert found == {"name": f"{HERE}:typed", "strength": 2.0, "way": "down"}
    assert float(made("typed", strength=2.0)[0, 0, 0, 0]) == pytest.approx(0.7)
    for wrong in ({"strengh": 1.0}, {"strength": "x"}):
        with pytest.raises(TypeError, match="strength"):
            made("typed", **wrong)


def test_a_list_is_no_text():
    with pytest.raises(TypeError, match="`ks` is a list"):
        attack_text.parse(f"{HERE}:of_list:ks=[3]")
    assert made("of_list", ks=[3]).shape == X.shape


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "keyless",
            r"keyless must take \(logits_fn, x, y, key=None\) and its options: ",
        ),
        ("Drawn", "Drawn is a class: name a function, or an object of it"),
    ],
)
def test_what_cannot_be_called_as_ours_is_told(name, told):
    with pytest.raises(TypeError, match=told):
        attacks.get(f"{HERE}:{name}", eps=0.1)


def test_a_bare_decorator():
    assert float(made("bare")[0, 0, 0, 0]) == pytest.approx(0.6)
