"""The state of an evaluation belongs to its model, whatever the model calls."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

from jaxrobust import evaluation, parallel
from jaxrobust.attacks import stepping

KEY = jax.random.key(0)


def hosted(model, sign=1, where="forward", seen=lambda x: x):
    """The linear model, or its negative, by a call of the host that sees `seen(x)`."""
    w, b = sign * model.w, sign * model.b

    def ask(x):
        like = jax.ShapeDtypeStruct((len(x), w.shape[1]), jnp.float32)

        def run(x):
            x = seen(np.asarray(x))
            return (x.reshape(len(x), -1) @ w + b).astype(np.float32)

        return jax.pure_callback(run, like, x)

    def push(x, c):
        like = jax.ShapeDtypeStruct(x.shape, jnp.float32)

        def run(c):
            return (np.asarray(c) @ w.T).reshape(x.shape).astype(np.float32)

        return (io_callback(run, like, c),)

    def plain(x):
        return x.reshape(len(x), -1) @ w + b[None]

    @jax.custom_vjp
    def call(x):
        return ask(x) if where == "forward" else plain(x)

    call.defvjp(lambda x: (call(x), x), push)
    return call


def attack(model, fn, **options):
    return evaluation.autoattack(
        fn, model.x[:8], model.y[:8], key=KEY, eps=0.5, slots=8, progress=False,
        mesh=parallel.make_mesh(1), **options,
    )  # fmt: skip


def nested(fn):
    """A call of the host inside jit, a loop and a branch of it."""

    def body(x):
        return jax.lax.cond(x.sum() < 1e9, fn, lambda x: jnp.zeros((len(x), 3)), x)

    @jax.jit
    def call(x):
        return jax.lax.scan(
            lambda z, _: (body(x), None), jnp.zeros((len(x), 3)), None, length=1
        )[0]

    return call


@pytest.mark.parametrize("where", ["forward", "backward", "nested"])
def test_a_model_that_calls_the_host_needs_a_name(linear, tmp_path, where):
    model = linear(3)
    fn = hosted(model, where="backward" if where == "backward" else "forward")
    fn = nested(fn) if where == "nested" else fn
    with pytest.raises(ValueError, match=r"`state_dir`.*callback.*state_tag"):
        attack(model, fn, state_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_foreign_functions_are_calls_of_the_host_and_printing_is_none(linear):
    model = linear(3)

    def foreign(x):
        like = jax.ShapeDtypeStruct((len(x), 3), jnp.float32)
        return jax.ffi.ffi_call("of_mine", like)(x)

    def printing(x):
        jax.debug.callback(lambda _: None, x)
        return model(x)

    assert stepping.calls_on_host(foreign, model.x) == ("ffi_call",)
    assert stepping.calls_on_host(printing, model.x) == ()


def test_a_tag_tells_models_apart_and_is_not_believed_blindly(linear, tmp_path):
    model = linear(3)
    one, other = hosted(model), hosted(model, sign=-1)
    first = attack(model, one, state_dir=tmp_path, state_tag="one")
    again = attack(model, one, state_dir=tmp_path, state_tag="one")
    assert [s.seconds for s in again.stages] == [s.seconds for s in first.stages]
    found = attack(model, other, state_dir=tmp_path, state_tag="other")
    assert found.clean.sum() < first.clean.sum()
    paths = sorted(tmp_path.iterdir(), key=lambda p: p.stat().st_mtime_ns)
    path = paths[0].name
    with pytest.raises(ValueError, match=f"{path}.* is of another model.*state_tag"):
        attack(model, other, state_dir=tmp_path, state_tag="one")
    with pytest.raises(ValueError, match="`state_tag` is your name"):
        attack(model, one, state_dir=tmp_path, state_tag=" ")


@pytest.mark.parametrize("moved", [True, False])
def test_models_that_agree_on_the_images_alone(moved, linear, tmp_path):
    """By the adversarial images; without any, by the numbers behind the flags."""
    model = linear(3)
    known = np.asarray(model.x[:8])

    def nearest(x):
        far = np.abs(x[:, None] - known[None]).sum((2, 3, 4))
        return known[far.argmin(1)]

    other = hosted(model, seen=nearest)
    first = attack(model, hosted(model), state_dir=tmp_path, state_tag="one")
    assert (first.x_adv != known).any()
    if not moved:
        (path,) = tmp_path.iterdir()
        whole = dict(np.load(path))
        clean = np.broadcast_to(whole["robust"][0], whole["robust"].shape)
        nothing = {"robust": clean, "share": 1.0 * clean[0]}
        nothing |= {name: whole[name][:0] for name in ("moved", "x_adv")}
        np.savez(path, **{**whole, **nothing})
    with pytest.raises(ValueError, match=r"is of another model: .*state_tag"):
        attack(model, other, state_dir=tmp_path, state_tag="one")


def test_a_damaged_state_is_told(linear, tmp_path):
    model = linear(3)
    attack(model, model, state_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = dict(np.load(path))
    meta = json.loads(str(whole["meta"]))
    far = np.full((1, *model.x.shape[1:]), 1e9, np.float32)

    def told(**more):
        return {"meta": np.asarray(json.dumps({**meta, **more}))}

    changes = [
        ({"share": None}, "no share"),
        ({"stuck": np.zeros((2, 7))}, "its stuck is float64"),
        ({"clean": np.full(whole["clean"].shape, "a")}, "its clean is"),
        ({"share": whole["share"] + 5}, "between 0 and 1"),
        ({"moved": np.asarray([99]), "x_adv": far}, "not there"),
        ({"moved": np.asarray([0]), "x_adv": far}, "not in the ball"),
        (told(stages=3), "of its stages"),
        (told(stages=meta["stages"] * 3), "of its stages"),
        (told(flagged={}), "of its stages"),
        (told(runner=[1]), "of its stages"),
        ({"robust": np.ones_like(whole["robust"])}, "do not agree"),
        ({"robust": whole["robust"][::-1]}, "do not agree"),
        (
            told(stages=[], runner={})
            | {"robust": whole["robust"][:1], "share": 1.0 * whole["robust"][0]}
            | {"moved": whole["moved"][:0], "x_adv": whole["x_adv"][:0]},
            "'runs'",
        ),
    ]
    for change, match in changes:
        arrays = {k: v for k, v in (whole | change).items() if v is not None}
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=f"{path.name} is damaged .*{match}"):
            attack(model, model, state_dir=tmp_path)
