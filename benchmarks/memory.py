"""What a training step needs in memory, as the compiler says: it is not run.

    python benchmarks/memory.py --model ssp_cifar --fields blocks=3,integrator=ssp2

Prints a row per `train.accumulate` and `train.remat`: bytes of temporary buffers (what
the step needs beside state and batch) and of the state, which is updated in place.
"""

import argparse
import itertools

import jax
import jax.numpy as jnp
import optax

from jaxrobust import models
from jaxrobust.training import check, compute, config, optimizer, state, step

MIB = 2**20


def measure(args: argparse.Namespace, accumulate: int, remat: bool) -> tuple[int, int]:
    """Returns the bytes of temporary buffers and of what is updated in place."""
    settings = config.base()
    settings.objective.name = args.objective
    settings.train.update(remat=remat, compute_dtype=args.compute_dtype)
    fields = settings.to_dict()
    model = compute.training_model(
        models.create(args.model, **dict(_pair(t) for t in args.fields.split(",") if t)),
        fields,
    )
    defense = check.make_defense(fields, model)
    tx = optimizer.make_optimizer(fields["optimizer"], defense.labels)
    shape, key = (args.size, args.size, args.channels), jax.random.key(0)
    example = jnp.zeros((1, *shape))
    variables = state.init_variables(model, example, key)
    first = state.create(variables, defense, tx, example, key=key)
    run = step.make_train_step(
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
    return found.temp_size_in_bytes, found.alias_size_in_bytes


def _pair(text: str) -> tuple[str, int | str]:
    name, _, value = text.partition("=")
    return name, int(value) if value.isdigit() else value


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ssp_cifar")
    parser.add_argument("--fields", default="", help="of the network: blocks=3,width=16")
    parser.add_argument("--objective", default="pgd")
    parser.add_argument("--compute_dtype", default="float32")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--accumulate", type=int, nargs="+", default=[1, 2, 4])
    args = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}: {vars(args)}")
    print("accumulate  remat  temporary MiB  updated in place MiB")
    for remat, parts in itertools.product((False, True), args.accumulate):
        temporary, alias = measure(args, parts, remat)
        print(
            f"{parts:10}  {remat!s:5}  {temporary / MIB:13.1f}  {alias / MIB:20.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
