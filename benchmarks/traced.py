"""What the programs of configs and attacks compute, traced on shapes alone.

No data, no weights: `jax.eval_shape` and `benchmarks.flops` see the shapes only.
"""

import dataclasses
import functools
import importlib.util
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import flops
from jaxrobust import attacks, losses, models, named_models
from jaxrobust.attacks import autoattack_versions as versions
from jaxrobust.data import augment
from jaxrobust.training import check, optimizer, state, step

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
# Training images, side and channels of each set; the nine tenths of Caltech rounded.
SETS = {
    "digits": (1437, 8, 1),
    "mnist": (60000, 28, 1),
    "fashion_mnist": (60000, 28, 1),
    "cifar10": (50000, 32, 3),
    "cifar100": (50000, 32, 3),
    "svhn_cropped": (73257, 32, 3),
    "tiny_imagenet": (100000, 64, 3),
    "caltech101_90_10": (8200, 224, 3),
    "caltech256": (27500, 224, 3),
    "tfds:imagenet2012": (1281167, 224, 3),
}


@dataclasses.dataclass(frozen=True)
class Step:
    """One training step on one device.

    Attributes:
      found: its operations.
      gradients: bytes to all-reduce.
      update: bytes that optimiser and averages read and write.
    """

    found: tuple[flops.Operation, ...]
    gradients: int
    update: int

    @property
    def reductions(self) -> float:
        """All-reduces of statistics: two that do not wait for each other are one."""
        return sum(o.times for o in self.found if o.over_batch) / 2


def get_config(name: str) -> dict[str, Any]:
    """Returns a config without arguments, its convolutions as on accelerators."""
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = {**module.get_config().to_dict(), "deterministic": False}
    if hasattr(named_models.create_model(config), "computing"):
        config["model"]["loop_safe"] = False
    return config


def image_shape(config: dict[str, Any]) -> tuple[int, int, int]:
    """Returns height, width and channels of a config's images."""
    fields = config["data"]
    _, side, channels = SETS[fields["name"]]
    side = fields["image_size"] or side
    return side, side, fields["channels"] or channels


def batches(config: dict[str, Any]) -> int:
    """Returns the training steps of an epoch."""
    images = SETS[config["data"]["name"]][0] - config["data"]["validation_examples"]
    return images // config["train"]["batch_size"]


def shapes_of(config: dict[str, Any], rows: int) -> tuple[Any, Any, Any]:
    """Returns a network, the shapes of its variables and of a batch of images."""
    model = named_models.create_model(config)
    images = jax.ShapeDtypeStruct((rows, *image_shape(config)), jnp.float32)
    variables = jax.eval_shape(
        lambda key, x: model.init(key, x, train=False), jax.random.key(0), images
    )
    return model, variables, images


@functools.cache
def training_step(name: str, rows: int) -> Step:
    """Traces the step of a config for so many images."""
    config = get_config(name)
    model, variables, _ = shapes_of(config, 1)
    defense = check.make_defense(config, model, steps_per_epoch=batches(config))
    tx = optimizer.make_optimizer(
        config["optimizer"], defense.labels, config["label_optimizers"]
    )
    key, ema = jax.random.key(0), config["train"]["ema"]
    example = jnp.zeros((1, *image_shape(config)))
    first = jax.eval_shape(
        lambda v: state.create(v, defense, tx, example, key=key, ema=ema > 0), variables
    )
    run = step.make_train_step(
        defense,
        tx,
        optax.constant_schedule(0.1),
        augment.make(config["data"]["augment"]),
        ema=ema,
    )
    index = jax.ShapeDtypeStruct((rows,), jnp.int32)
    image = jax.ShapeDtypeStruct((rows, *example.shape[1:]), jnp.uint8)
    found = flops.operations(
        run, first, {"image": image, "label": index, "index": index}, key
    )
    size = _size(first.params)
    averages = 0 if first.ema_params is None else 3 * _size(first.ema_params)
    update = 3 * size + 2 * _size(first.opt_state) + averages
    phases = len(defense.phases)
    return Step(tuple(found), phases * size, phases * update)


def _size(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@functools.cache
def network(name: str) -> dict[str, Any]:
    """Counts operations and bytes per image of the network of a config."""
    config = get_config(name)
    rows = config["train"]["batch_size"]
    model, variables, images = shapes_of(config, rows)
    labels = jnp.zeros(rows, jnp.int32)

    def forward(variables: Any, x: Any) -> Any:
        return models.logits_fn(model, variables)(x)

    def train(params: Any, variables: Any, x: Any) -> Any:
        out, updates = model.apply(
            {**variables, "params": params},
            x,
            train=True,
            mutable=["batch_stats", "spectral_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        return losses.cross_entropy(out.logits, labels).sum(), updates

    def loss(x: Any, variables: Any) -> Any:
        return losses.cross_entropy(forward(variables, x), labels).sum()

    found = {
        "forward": flops.operations(forward, variables, images),
        "input": flops.operations(jax.grad(loss), images, variables),
        "weights": flops.operations(
            jax.grad(train, has_aux=True), variables["params"], variables, images
        ),
    }
    counts = {k: flops.flops(v) / rows for k, v in found.items()}
    size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return {
        **counts,
        "bytes": flops.moved(found["input"]) / rows,
        "parameters": size,
    }


def label(config: dict[str, Any]) -> tuple[str, str]:
    """Returns the network and the size of its images, for people."""
    fields = config["model"]
    shown = ("depth", "integrator", "blocks", "num_classes")
    parts = [f"{k} {fields[k]}" for k in shown if k in fields]
    size = "x".join(map(str, image_shape(config)))
    return ", ".join([fields["name"], *parts]).replace("num_classes", "classes"), size


# Attacks as they are usually set; calls of the model per image are counted.
ATTACKS: dict[str, dict[str, Any]] = {
    "fgsm": {"eps": 0.03},
    "pgd-7": {"eps": 0.03, "step_size": 0.01, "steps": 7},
    "pgd-20": {"eps": 0.03, "step_size": 0.01, "steps": 20},
    "mim-20": {"eps": 0.03, "step_size": 0.01, "steps": 20},
    "uniform_noise-10": {"eps": 0.03, "draws": 10},
    "apgd-100": {"eps": 0.03, "steps": 100},
    "apgd_targeted-100": {"eps": 0.03, "steps": 100},
    "fab-100": {"eps": 0.03, "steps": 100},
    "square-5000": {"eps": 0.03, "queries": 5000},
    "deepfool-50": {"steps": 50, "overshoot": 0.02},
    "cw_l2-9x1000": {"binary_steps": 9, "steps": 1000},
}


def calls(name: str) -> tuple[float, float]:
    """Counts forward and backward passes per image, with 10 classes.

    The network is one matrix product of its own shape: with the batch as rows it is a
    forward pass, with its gradient's shape a backward pass.
    """
    rows, classes, side = 7, 10, 8
    attack = attacks.get(name.partition("-")[0], **ATTACKS[name])
    weights = jnp.ones((side * side * 3, classes))

    def run(weights: Any, x: Any, y: Any, key: Any) -> Any:
        return attack(lambda x: x.reshape(len(x), -1) @ weights, x, y, key)

    shape = jax.ShapeDtypeStruct((rows, side, side, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((rows,), jnp.int32)
    found = flops.operations(run, weights, shape, labels, jax.random.key(0))
    passes = {classes: 0.0, side * side * 3: 0.0}
    for o in found:
        if o.kind == "matrix" and o.result[-1] in passes:
            passes[o.result[-1]] += o.times * o.sides[0] / rows
    return passes[classes], passes[side * side * 3]


def autoattack(classes: int = 10) -> tuple[int, int]:
    """Forward and backward passes of AutoAttack standard for an image that holds."""
    forward = backward = 0
    for stage in versions.plan("standard", "linf", classes).stages:
        steps = stage.method.runs() * stage.method.points
        backward += steps * stage.per_step.gradients
        forward += steps * (stage.per_step.forwards + stage.per_step.gradients)
    return forward, backward
