"""PCL's objectives: one step of the original's training, its attack, its two phases."""

import functools
import pathlib
import types

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import convert, data, defenses, losses, models
from jaxrobust.training import check, config, optimizer, state, step
from jaxrobust.training.presets import pcl as preset

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
STATISTICS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
TABLES = {"prox": "proximity", "conprox": "contrastive"}
SIZES = {"256": "pooled", "1024": "embedding"}

# Parity needs no fast code, only code that is compiled fast.
QUICK = {"xla_backend_optimization_level": 0}
jit = functools.partial(jax.jit, compiler_options=QUICK)


def load(case):
    with np.load(GOLDEN / f"pcl_{case}.npz") as file:
        arrays = dict(file)
    return arrays, {k[3:]: v for k, v in arrays.items() if k.startswith("sd/")}


def nhwc(array):
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def assert_close(got, want, rtol):
    chex.assert_trees_all_close(got, want, rtol=0, atol=rtol * np.abs(want).max())


def fields_of_the_release():
    fields = config.base()
    preset.use_prototypes(fields, contrastive=1e-4)
    return fields


def centers_of(arrays, prefix, dtype):
    return {
        ours: {
            layer: arrays[f"{prefix}{theirs}_{size}"].astype(dtype)
            for size, layer in SIZES.items()
            if f"{prefix}{theirs}_{size}" in arrays
        }
        for theirs, ours in TABLES.items()
    }


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_golden_step(dtype):
    """One step of `pcl_training.py` with the optimisers that the config builds."""
    arrays, state_dict = load("resnet_bottleneck_step")
    with jax.enable_x64(dtype == "float64"):
        after, metrics, model = golden_step(arrays, state_dict, dtype)
    double = dtype == "float64"
    suffix, rtol = ("64", 1e-9) if double else ("", 1e-4)
    ce, near_x, near_z, far_x, far_z, total = arrays[f"step/losses{suffix}"]
    for name, want in (
        ("loss", total),
        ("cross_entropy", ce),
        ("proximity", near_x + near_z),
        ("contrastive", far_x + far_z),
    ):
        chex.assert_trees_all_close(metrics[name], want, rtol=rtol)
    assert_centers(after.params["extra"], arrays, 2e-6 if double else 1e-3)
    # Batches of 4 through 56 layers: torch in float32 is off by 4e-2 at the worst, ours
    # by 1e-2, which the step multiplies by .01.
    gradients = 1e-6 if double else 5e-2
    assert_parameters(after, arrays, model, state_dict, gradients)


def golden_step(arrays, state_dict, dtype):
    model = models.create("pcl_resnet", depth=56)
    fields = fields_of_the_release()
    defense = defenses.create("pcl", model, fields.objective.to_dict())
    tx = optimizer.make_optimizer(
        fields.optimizer.to_dict(), defense.labels, fields.label_optimizers.to_dict()
    )
    variables = convert.from_torch(model, state_dict)
    variables = jax.tree.map(lambda v: v.astype(dtype), variables)
    example = jnp.zeros((1, 32, 32, 3), dtype)
    first = state.create(variables, defense, tx, example, key=jax.random.key(0))
    extra = jax.tree.map(jnp.asarray, centers_of(arrays, "centers/", dtype))
    chex.assert_trees_all_equal_shapes(extra, first.params["extra"])
    # The golden images are normalised and no multiples of 1/255.
    batch = {
        "image": 255 * nhwc(arrays["x"]).astype(dtype),
        "label": jnp.asarray(arrays["labels"], jnp.int32),
        "index": jnp.arange(4),
    }
    run = step.make_train_step(
        defense,
        tx,
        optax.constant_schedule(fields.optimizer.learning_rate),
        lambda images, keys: images,
        precision="highest",
        dtype=jnp.dtype(dtype),
    )
    run = jit(run.__wrapped__)  # pyright: ignore[reportFunctionMemberAccess]
    first = first.replace(params={**first.params, "extra": extra})
    return *run(first, batch, jax.random.key(1)), model


def assert_centers(extra, arrays, rtol):
    rates = {"proximity": 0.5, "contrastive": 1e-4}
    before = centers_of(arrays, "centers/", "d")
    gradients = centers_of(arrays, "step/center_grad/", "d")
    assert sum(map(len, gradients.values())) == 4
    for name, table in gradients.items():
        for layer, gradient in table.items():
            moved = before[name][layer] - np.asarray(extra[name][layer])
            want = rates[name] * gradient
            # What float32 can say of a small move of a value near 3.
            floor = 4e-7 if extra[name][layer].dtype == np.float32 else 0.0
            atol = floor + rtol * np.abs(want).max()
            chex.assert_trees_all_close(moved, want, rtol=0, atol=atol)
    for name, table in centers_of(arrays, "step/centers_after/", "f").items():
        for layer, want in table.items():
            assert_close(extra[name][layer], want, rtol)


def linen(array):
    """In Linen's layout; every torch array of two or four axes here is a kernel."""
    return array.transpose(
        {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, range(array.ndim))
    )


def names_of(model, state_dict):
    """The tree of the variables with torch's name in the place of each leaf."""
    names = list(state_dict)
    numbers = {k: np.full(v.shape, i) for i, (k, v) in enumerate(state_dict.items())}
    order = jax.device_get(convert.from_torch(model, numbers))
    return jax.tree.map(lambda leaf: names[int(leaf.ravel()[0])], order)


def assert_parameters(after, arrays, model, state_dict, rtol):
    """Compares what is stored of the parameters after the step, and all lengths."""
    names = names_of(model, state_dict)
    got = jax.device_get({"params": after.params["model"], **after.model_state})
    compared = 0
    for g, name in zip(*map(jax.tree.leaves, (got, names)), strict=True):
        if f"step/after/{name}" in arrays:
            o, w = linen(state_dict[name]), linen(arrays[f"step/after/{name}"])
            floor = 1e-7 * np.abs(w).max() / np.abs(w - o).max()
            assert_close(g - o, w - o, rtol + floor)
            compared += 1
    assert compared == 10
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    keys = [k for k in state_dict if not k.endswith(buffers)]
    leaves = map(jax.tree.leaves, (got["params"], names["params"]))
    for g, name in zip(*leaves, strict=True):
        number, o = keys.index(name), linen(state_dict[name])
        length = arrays["step/param_after_l264"][number]
        chex.assert_trees_all_close(np.linalg.norm(g), length, rtol=rtol / 10)
        # The first step of momentum SGD: the gradient and the weight decay.
        gradient = np.linalg.norm((o.astype(np.float64) - g) / 0.01 - 1e-4 * o)
        length = arrays["step/param_grad_l264"][number]
        chex.assert_trees_all_close(gradient, length, rtol=rtol, atol=2e-3 * rtol)


def attacked_by(name, eps_range, fields, params, model_state, model, batch):
    defense = defenses.create(
        "pcl_adversarial",
        model,
        {"attack": fields, "attack_name": name, "eps_range": eps_range},
    )
    (phase,) = defense.phases
    assert phase.prepare is not None
    run = jit(phase.prepare)
    key = jax.random.key(3)
    return run({"model": params}, model_state, batch, key, jnp.int32(0))["attacked"]


def golden_attack():
    arrays, state_dict = load("train_attacks")
    model = models.create("pcl_resnet", depth=8, **STATISTICS)
    variables = convert.from_torch(model, state_dict)
    y = jnp.asarray(arrays["labels"], jnp.int32)
    keys = jax.random.split(jax.random.key(0), 4)
    batch = {"image": nhwc(arrays["x_pix"]), "label": y, "key": keys}
    params = variables.pop("params")
    return arrays, (params, variables, model, batch)


def test_fgsm_of_the_release():
    """In eval mode, on the running statistics, at the radius given."""
    arrays, given = golden_attack()
    fields = {"norm": "linf", "eps": 0.03, "step_size": 1.0, "steps": 3}
    got = attacked_by("fgsm", (), fields, *given)
    chex.assert_trees_all_close(got, nhwc(arrays["fgsm_adv"]), rtol=0, atol=2e-6)


def test_radius_of_a_batch():
    """One radius for all images of a batch, in the range; another for the next."""
    _, (params, model_state, model, batch) = golden_attack()
    defense = defenses.create("pcl_adversarial", model, {"attack": {"eps": 1.0}})
    prepare = jit(defense.phases[0].prepare)
    radii = []
    for number in range(4):
        attacked = prepare(
            {"model": params}, model_state, batch, jax.random.key(number), jnp.int32(9)
        )["attacked"]
        sizes = jnp.abs(attacked - batch["image"]).max((1, 2, 3))
        chex.assert_trees_all_close(sizes, float(sizes[0]), rtol=0, atol=1e-6)
        radii.append(float(sizes[0]))
    assert 0.02 <= min(radii) < max(radii) <= 0.05
    assert len(set(radii)) == 4


def test_pgd_done_right():
    """Projected steps of 2/255 from the image itself, at every step on the network.

    The released form feeds pixels to a network that wants normalised images.
    """
    arrays, given = golden_attack()
    params, model_state, model, batch = given
    fields = {"norm": "linf", "eps": 8 / 255, "step_size": 2 / 255, "steps": 10}
    fields["random_start"] = False
    got = attacked_by("pgd", (), fields, *given)
    f = models.logits_fn(model, {"params": params, **model_state})
    x = clean = batch["image"]
    ce = lambda x: losses.cross_entropy(f(x), batch["label"])  # noqa: E731
    gradient = jit(jax.grad(lambda x: ce(x).sum()))
    for _ in range(10):
        x = x + 2 / 255 * jnp.sign(gradient(x))
        x = jnp.clip(jnp.clip(x, clean - 8 / 255, clean + 8 / 255), 0, 1)
    assert np.mean(np.abs(got - x) > 1e-5) < 0.01  # signs of gradients near 0
    released = nhwc(arrays["pgd_adv"])
    right, wrong = jit(lambda a, b: (ce(a).mean(), ce(b).mean()))(got, released)
    assert right > wrong


class Tiny(nn.Module):
    """A network with one feature vector."""

    @nn.compact
    def __call__(self, x, *, train=False):
        h = nn.Dense(6)(x.reshape(x.shape[0], -1))
        h = nn.BatchNorm(use_running_average=not train)(h)
        return models.Outputs(nn.Dense(3)(h), {"h": h, "map": x})


@pytest.fixture
def tiny():
    model, x = Tiny(), jax.random.uniform(jax.random.key(0), (6, 2, 2, 1))
    variables = model.init(jax.random.key(1), x)
    y = jnp.asarray([0, 1, 2, 0, 1, 2], jnp.int32)
    batch = {"image": x, "label": y, "key": jax.random.split(jax.random.key(2), 6)}
    return types.SimpleNamespace(model=model, variables=variables, batch=batch)


def value_and_gradients(tiny, name, number, **options):
    defense = defenses.create(name, tiny.model, {"layers": ("h",), **options})
    extra = defense.init(jax.random.key(4), tiny.variables, tiny.batch["image"][:1])
    params = {"model": tiny.variables["params"], "extra": extra}
    model_state = {"batch_stats": tiny.variables["batch_stats"]}
    args = (jax.random.key(5), jnp.int32(number))
    (phase,) = defense.phases
    batch = dict(tiny.batch)
    if phase.prepare is not None:
        batch |= phase.prepare(params, model_state, batch, *args)
    gradient = jit(jax.value_and_grad(phase.loss, has_aux=True))
    (loss, (_, metrics)), grads = gradient(params, model_state, batch, *args)
    return loss, metrics, grads, params


@pytest.mark.parametrize("name", ["pcl", "pcl_adversarial"])
def test_warm_up_is_plain_cross_entropy(tiny, name):
    """Before `warmup_steps`: the loss and gradients of `standard`; centres rest."""
    options = {"warmup_steps": 3, "attack": {"eps": 0.1}}
    loss, _, grads, _ = value_and_gradients(tiny, name, 2, **options)
    plain, _, wanted, _ = value_and_gradients(tiny, "standard", 2)
    chex.assert_trees_all_close(loss, plain, rtol=1e-5)
    chex.assert_trees_all_close(grads["model"], wanted["model"], rtol=1e-4, atol=1e-6)
    assert not any(np.any(g) for g in jax.tree.leaves(grads["extra"]))
    loss, metrics, grads, _ = value_and_gradients(tiny, name, 3, **options)
    joint = metrics["cross_entropy"] + metrics["proximity"] - metrics["contrastive"]
    chex.assert_trees_all_close(loss, joint, rtol=1e-5)
    assert all(np.all(np.any(g, -1)) for g in jax.tree.leaves(grads["extra"]))


def test_weights_and_separation(tiny):
    """The centres' gradients do not depend on the weights; the separation's do."""
    weights = {"proximity_weight": 2.0, "contrastive_weight": 0.25}
    one = value_and_gradients(tiny, "pcl", 0)
    two = value_and_gradients(tiny, "pcl", 0, **weights)
    for name in ("proximity", "contrastive"):
        chex.assert_trees_all_close(
            two[2]["extra"][name]["h"], one[2]["extra"][name]["h"], rtol=1e-5
        )
    assert two[1]["proximity"] == pytest.approx(2 * one[1]["proximity"])
    apart = value_and_gradients(tiny, "pcl", 0, separation_weight=0.1)
    centers = one[3]["extra"]["proximity"]["h"]
    chex.assert_trees_all_close(
        apart[0], one[0] - 0.1 * losses.center_separation(centers), rtol=1e-5
    )
    push = 0.1 * jax.grad(losses.center_separation)(centers)
    chex.assert_trees_all_close(
        apart[2]["extra"]["proximity"]["h"],
        one[2]["extra"]["proximity"]["h"] - push,
        rtol=1e-4,
        atol=1e-5,
    )


def test_centers_start_normal_and_apart(tiny):
    model = models.create("pcl_resnet", depth=8, width=4)
    defense = defenses.create("pcl", model, {})
    x = jnp.zeros((1, 32, 32, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    extra = defense.init(jax.random.key(1), variables, x)
    shapes = jax.tree.map(jnp.shape, extra)
    assert shapes["proximity"] == {"pooled": (10, 16), "embedding": (10, 1024)}
    assert shapes["contrastive"] == shapes["proximity"]
    values = [np.asarray(extra[k]["embedding"]) for k in extra]
    assert (values[0] != values[1]).all()
    for value in values:
        assert abs(value.mean()) < 0.05
        assert value.std() == pytest.approx(1, abs=0.05)
    labels = defense.labels({"model": {"w": 0.0}, "extra": extra})
    assert labels["model"] == {"w": "model"}
    assert set(jax.tree.leaves(labels["extra"]["contrastive"])) == {"contrastive"}
    assert set(jax.tree.leaves(labels["extra"]["proximity"])) == {"proximity"}


@pytest.mark.parametrize(
    ("layers", "message"),
    [(("g",), "`layers`: Tiny has no.*'g'.*has h"), (("map",), "no.*vector 'map'")],
)
def test_layers_that_are_not_there(tiny, layers, message):
    defense = defenses.create("pcl", tiny.model, {"layers": layers})
    with pytest.raises(ValueError, match=message):
        defense.init(jax.random.key(0), tiny.variables, tiny.batch["image"][:1])


def test_layers_are_checked_before_training():
    """With the shapes of the data, before anything is computed."""
    fields = fields_of_the_release()
    images = np.zeros((3, 32, 32, 1), np.uint8)
    found = data.Dataset(images, np.arange(3, dtype=np.int32), ("a", "b", "c"))
    options = {"depth": 8, "width": 4, "num_classes": 3}
    model = models.create("pcl_resnet", **options)
    check.check_data(fields.to_dict(), model, found)
    fields.objective.layers = ("pooled", "branch_stage2")
    with pytest.raises(ValueError, match=r"'branch_stage2'.*branches"):
        check.check_data(fields.to_dict(), model, found)
    model = models.create("pcl_resnet", **options, branches=("stage2",))
    check.check_data(fields.to_dict(), model, found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ()}, "`layers` must be a tuple of at least one name"),
        ({"layers": "pooled"}, "`layers` must be a tuple.* got 'pooled'"),
        ({"warmup_steps": -1}, "`warmup_steps` must be at least 0"),
        ({"attack_warmup_steps": -1}, "`attack_warmup_steps` must be at least 0"),
        ({"contrastive_weight": -1e-4}, "`contrastive_weight`.*at least 0.*-0.0001"),
        ({"proximity_weight": float("nan")}, "`proximity_weight`.*nan"),
        ({"separation_weight": float("inf")}, "`separation_weight`.*inf"),
        ({"eps_range": (0.05, 0.02)}, r"`eps_range`.*\(0.05, 0.02\)"),
        ({"eps_range": (0.05,)}, r"`eps_range` must be \(low, high\) or \(\)"),
        ({"attack_name": "pdg"}, "'pdg'.*'pgd'"),
        ({"attack_bn": "test"}, "`attack_bn`.*'test'"),
    ],
)
def test_refusals(tiny, options, message):
    options = {"attack": {"eps": 0.1}, **options}
    with pytest.raises(ValueError, match=message):
        defenses.create("pcl_adversarial", tiny.model, options)


def rates(argument, epochs):
    """The learning rate of a CIFAR-10 config at the start of some epochs."""
    fields = config.base()
    preset.use_prototypes(fields, contrastive=1e-4)
    preset.use_schedule(fields, argument["schedule"], 400.0, argument["from"])
    schedule = optimizer.make_schedule(
        fields.schedule.to_dict(),
        fields.optimizer.learning_rate,
        steps_per_epoch=2,
        total_steps=round(2 * fields.train.epochs),
    )
    found = [float(schedule(2 * epoch)) for epoch in epochs]
    return found, fields.train.epochs, fields.objective.warmup_epochs


def test_schedule_of_both_phases():
    epochs = (0, 80, 81, 122, 140, 163, 164, 305, 306, 394, 524, 563)
    first = [0.1, 0.1, 0.01, 1e-3, 1e-4, 1e-4]
    found = rates({"schedule": "paper", "from": ""}, epochs)
    want = [*first, 0.01, 0.01, 1e-3, 1e-4, 1e-5, 1e-5]
    chex.assert_trees_all_close(found[0], want, rtol=1e-6)
    assert found[1:] == (564, 164)
    found = rates({"schedule": "released", "from": ""}, epochs)
    chex.assert_trees_all_close(found[0], [*first, *[0.01] * 6], rtol=1e-6)


def test_schedule_from_a_checkpoint():
    found = rates({"schedule": "paper", "from": "run"}, (0, 141, 142, 230, 360, 399))
    want = [0.01, 0.01, 1e-3, 1e-4, 1e-5, 1e-5]
    chex.assert_trees_all_close(found[0], want, rtol=1e-6)
    assert found[1:] == (400, 0)


def test_schedule_and_attack_names():
    fields = fields_of_the_release()
    with pytest.raises(ValueError, match=r"`schedule`.*paper, released.*'sic'"):
        preset.use_schedule(fields, "sic", 400.0)
    with pytest.raises(ValueError, match="`attack` must be fgsm or pgd, got 'mim'"):
        preset.use_attack(fields, "mim")
