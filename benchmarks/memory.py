"""What a training step needs in memory, as the compiler says: it is not run.

    python benchmarks/memory.py --model ssp_cifar --fields blocks=3,integrator=ssp2

Prints a row per `train.accumulate` and `train.remat`: what a backward pass holds from
its forward pass, as JAX traces it on any backend (parameters included), temporary
buffers of the step, as the backend assigns them, and the state, updated in place.
"""

import argparse
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrobust import models
from jaxrobust.defenses.base import Phase
from jaxrobust.training import check, compute, config, optimizer, state, step

MIB = 2**20


def measure(
    args: argparse.Namespace, accumulate: int, remat: bool
) -> tuple[int, int, int]:
    """Returns bytes: held for a backward pass, temporary, updated in place."""
    settings = config.base()
    settings.objective.name = args.objective
    settings.train.update(remat=remat, compute_dtype=args.compute_dtype)
    fields = settings.to_dict()
    model = compute.training_model(
        models.create(
            args.model, **dict(_pair(t) for t in args.fields.split(",") if t)
        ),
        fields,
    )
    defense = check.make_defense(fields, model)
    tx = optimizer.make_optimizer(fields["optimizer"], defense.labels)
    shape, key = (args.size, args.size, args.channels), jax.random.key(0)
    example = jnp.zeros((1, *shape))
    variables = state.init_variables(model, example, key)
    first = state.create(variables, defense, tx, example, key=key)
    run: Any = step.make_train_step(
        defense, tx, optax.constant_schedule(0.1), lambda x, keys: x,
        accumulate=accumulate,
    )  # fmt: skip
    rows = args.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((rows, *shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "index": jax.ShapeDtypeStruct((rows,), jnp.int32),
    }
    lowered = run.lower(first, batch, key)
    # Code is generated after buffers are assigned, so it need not be fast code.
    options = {}
    if jax.default_backend() == "cpu":
        options["xla_backend_optimization_level"] = 0
    found = lowered.compile(compiler_options=options).memory_analysis()
    held = held_bytes(defense.phases[0], first, (rows // accumulate, *shape))
    return held, found.temp_size_in_bytes, found.alias_size_in_bytes


def held_bytes(phase: Phase, current: state.TrainState, shape: tuple[int, ...]) -> int:
    """Returns the bytes of what the pull-back of a phase's loss holds."""
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    batch = {
        "image": images,
        "attacked": images,
        "label": jax.ShapeDtypeStruct(shape[:1], jnp.int32),
        "key": jax.eval_shape(lambda: jax.random.split(jax.random.key(0), shape[0])),
    }

    def pull_back(params: Any, model_state: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            key = jax.random.key(0)
            return phase.loss(params, model_state, batch, key, jnp.int32(0))[0]

        return jax.vjp(loss, params)[1]

    held = jax.eval_shape(pull_back, current.params, current.model_state, batch)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(held))


def _pair(text: str) -> tuple[str, int | str]:
    name, _, value = text.partition("=")
    return name, int(value) if value.isdigit() else value


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ssp_cifar")
    parser.add_argument(
        "--fields", default="", help="of the network: blocks=3,width=16"
    )
    parser.add_argument("--objective", default="pgd")
    parser.add_argument("--compute_dtype", default="float32")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--accumulate", type=int, nargs="+", default=[1, 2, 4])
    args = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}: {vars(args)}")
    print("accumulate  remat   held MiB  temporary MiB  updated in place MiB")
    for remat, parts in itertools.product((False, True), args.accumulate):
        held, temporary, alias = (size / MIB for size in measure(args, parts, remat))
        print(
            f"{parts:10}  {remat!s:5}  {held:9.1f}  {temporary:13.1f}  {alias:20.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
