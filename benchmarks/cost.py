"""What every config costs on paper; makes the tables of docs/scaling.md.

    python -m benchmarks.cost [--configs pgd_cifar10 ...]    # prints
    python -m benchmarks.cost --write docs/scaling.md        # replaces the tables there

The training step that a config describes, attack and optimiser included, is traced on
shapes (no data, nothing compiled) for the rows of one device; `benchmarks.flops` reads
operations and bytes off it, and `seconds` makes a time of them: per operation the
larger of arithmetic, memory and launch, then the all-reduces.
"""

import argparse
import dataclasses
import pathlib
import re
from collections.abc import Iterable, Sequence

from benchmarks import flops, traced


@dataclasses.dataclass(frozen=True)
class Device:
    """A device and its links; rates in units per second.

    Attributes:
      name: as in the tables.
      peak: operations of dense matrix products at the default precision of float32.
      reached: share of the peak that convolutions of whole tiles reach.
      memory: bytes.
      link: bytes to the other devices of an all-reduce, one direction.
      latency: seconds of a small all-reduce.
      launch: least seconds of a kernel.
      tile: sides of a matrix product are padded to multiples of it.
      price: dollars per device and hour.
    """

    name: str
    peak: float
    reached: float
    memory: float
    link: float
    latency: float
    launch: float
    tile: int
    price: float


# Peaks: NVIDIA's data sheets (TF32, dense) and Google's page on v5e (bfloat16). The
# rest of a line is assumed; docs/scaling.md says what is known about it.
H100 = Device("H100", 494.7e12, 0.3, 3.35e12, 450e9, 15e-6, 4e-6, 32, 3.00)
H200 = dataclasses.replace(H100, name="H200", memory=4.8e12, price=4.00)
V5E = Device("v5e", 197e12, 0.5, 819e9, 100e9, 5e-6, 1e-6, 128, 1.20)
MACHINES = ((H100, 1), (H100, 8), (H200, 1), (H200, 8), (V5E, 8), (V5E, 64))
BOUNDS = ("arithmetic", "memory", "launch", "all-reduce")
STREAMED = 0.7  # share of the memory bandwidth that a kernel reaches


def _padded(operation: flops.Operation, tile: int) -> float:
    """How much larger a matrix product is once its sides fill whole tiles."""
    share = 1.0
    for side in operation.sides:
        share *= side / (-(-side // tile) * tile)
    return 1 / share


def seconds(work: traced.Step, device: Device, count: int) -> dict[str, float]:
    """Predicts the time of a step, by what bounds it.

    Returns:
      Seconds bounded by `arithmetic`, `memory`, `launch` and `all-reduce`.
    """
    spent: dict[str, float] = dict.fromkeys(BOUNDS, 0.0)
    for o in work.found:
        rate = device.peak * device.reached / _padded(o, device.tile)
        needs = {
            "arithmetic": o.flops / rate,
            "memory": o.bytes / (device.memory * STREAMED),
            "launch": device.launch,
        }
        bound = max(needs, key=needs.__getitem__)
        spent[bound] += o.times * needs[bound]
    spent["memory"] += work.update / (device.memory * STREAMED)
    if count > 1:
        ring = 2 * (count - 1) / count * work.gradients / device.link
        spent["all-reduce"] = ring + device.latency * (1 + work.reductions)
    return spent


def devices_table() -> list[list[str]]:
    """The rates that the predictions assume."""
    heads = "device,peak,reached,memory,links,small all-reduce,launch,tile"
    rows = [[*heads.split(","), "dollars per hour"]]
    for d in dict.fromkeys(device for device, _ in MACHINES):
        rows.append(
            [
                d.name,
                f"{short(d.peak / 1e12, 4)} T/s",
                str(d.reached),
                f"{short(d.memory / 1e12)} TB/s",
                f"{short(d.link / 1e9)} GB/s",
                f"{short(d.latency * 1e6)} us",
                f"{short(d.launch * 1e6)} us",
                str(d.tile),
                f"{d.price:.2f}",
            ]
        )
    return rows


def networks_table(names: Sequence[str]) -> list[list[str]]:
    """Operations and bytes per image of each different network."""
    rows = [
        [
            "configs",
            "network",
            "image",
            "parameters",
            "forward",
            "gradient to the image",
            "gradient to the weights",
            "bytes moved (to the image)",
        ]
    ]
    seen: dict[tuple[str, str], list[str]] = {}
    for name in names:
        seen.setdefault(traced.label(traced.get_config(name)), []).append(name)
    for described, users in seen.items():
        n = traced.network(users[0])
        counts = [f"{short(n[k] / 1e9)} G" for k in ("forward", "input", "weights")]
        size = f"{short(n['parameters'] / 1e6)} M"
        traffic = f"{short(n['bytes'] / 1e6)} MB"
        rows.append([", ".join(users), *described, size, *counts, traffic])
    return rows


def attacks_table() -> list[list[str]]:
    """Model calls per image, and operations with PreAct-ResNet-18 at 32 px."""
    n = traced.network("pgd_cifar10")
    rows = [["attack", "forward passes", "backward passes", "operations"]]
    known = [(name, *traced.calls(name)) for name in traced.ATTACKS]
    known.append(("AutoAttack standard, an image that holds", *traced.autoattack()))
    for name, forward, backward in known:
        total = forward * n["forward"] + backward * (n["input"] - n["forward"])
        rows.append(
            [name, f"{forward:,.0f}", f"{backward:,.0f}", f"{short(total / 1e12)} T"]
        )
    return rows


def steps_table(names: Sequence[str]) -> list[list[str]]:
    """What a step of each config computes and moves on one device."""
    rows = [
        [
            "config",
            "batch",
            "steps",
            "operations",
            "memory traffic",
            "kernels",
            "optimiser",
            "all-reduced gradients",
            "all-reduces of statistics",
            "images if streamed",
        ]
    ]
    for name in names:
        config = traced.get_config(name)
        batch = config["train"]["batch_size"]
        work = traced.training_step(name, batch)
        found = list(work.found)
        height, width, channels = traced.image_shape(config)
        kernels = sum(o.times for o in found)
        steps = traced.batches(config) * config["train"]["epochs"]
        rows.append(
            [
                name,
                str(batch),
                f"{steps:,.0f}",
                f"{short(flops.flops(found) / 1e12)} T",
                f"{short(flops.moved(found) / 1e9)} GB",
                f"{kernels:,.0f}",
                f"{short(work.update / 1e6)} MB",
                f"{short(work.gradients / 1e6)} MB",
                f"{work.reductions:,.0f}",
                f"{short(batch * height * width * channels / 1e6, 2)} MB",
            ]
        )
    return rows


def _times(name: str, device: Device, count: int) -> dict[str, float] | None:
    """Returns the times of a step, None where devices cannot share the batch."""
    batch = traced.get_config(name)["train"]["batch_size"]
    if batch % count:
        return None
    return seconds(traced.training_step(name, batch // count), device, count)


def times_table(names: Sequence[str]) -> list[list[str]]:
    """Predicted milliseconds per step, and what bounds most of them on one H100."""
    heads = [f"{count} {device.name}" for device, count in MACHINES]
    rows = [["config", *heads, "bound on 1 H100", "on 8 H100"]]
    for name in names:
        found = [_times(name, device, count) for device, count in MACHINES]
        cells = ["-" if t is None else f"{short(sum(t.values()) * 1e3)}" for t in found]
        rows.append([name, *cells, *map(_bound, found[:2])])
    return rows


def _bound(times: dict[str, float] | None) -> str:
    if times is None:
        return "-"
    most = max(times, key=times.__getitem__)
    return f"{most} {times[most] / sum(times.values()):.0%}"


def runs_table(names: Sequence[str]) -> list[list[str]]:
    """Predicted hours and dollars of the training runs."""
    heads = [f"{count} {device.name}" for device, count in MACHINES]
    rows = [["config", *heads]]
    for name in names:
        config = traced.get_config(name)
        steps = traced.batches(config) * config["train"]["epochs"]
        cells = []
        for device, count in MACHINES:
            times = _times(name, device, count)
            if times is None:
                cells.append("-")
                continue
            hours = steps * sum(times.values()) / 3600
            dollars = hours * count * device.price
            cells.append(f"{short(hours, 2)} h, ${short(dollars, 2)}")
        rows.append([name, *cells])
    return rows


def short(value: float, digits: int = 3) -> str:
    """Writes a number with so many digits, never with an exponent."""
    return f"{float(f'{value:.{digits}g}'):,.10g}"


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """Writes a table; all but the first column are aligned to the right."""
    first, *rest = rows
    lines = [first, ["---"] + ["---:"] * (len(first) - 1), *rest]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tables(names: Sequence[str]) -> dict[str, str]:
    """Returns every table of docs/scaling.md by the name of its place there."""
    return {
        "devices": markdown(devices_table()),
        "networks": markdown(networks_table(names)),
        "attacks": markdown(attacks_table()),
        "steps": markdown(steps_table(names)),
        "times": markdown(times_table(names)),
        "runs": markdown(runs_table(names)),
    }


def replace(text: str, made: dict[str, str]) -> str:
    """Puts tables between `<!-- name -->` and `<!-- end -->`.

    Raises:
      ValueError: if a table has no such place.
    """
    for name, table in made.items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = place.subn(lambda m, t=table: f"{m[1]}{t}{m[2]}", text)
        if count != 1:
            raise ValueError(f"<!-- {name} --> must be there once, is {count} times.")
    return text


def main() -> None:
    """Prints the tables, or writes them."""
    parser = argparse.ArgumentParser()
    known = sorted(path.stem for path in traced.CONFIGS.glob("*.py"))
    parser.add_argument("--configs", nargs="*", default=known, choices=known)
    parser.add_argument("--write", type=pathlib.Path, help="the page to update")
    args = parser.parse_args()
    made = tables(args.configs)
    if args.write:
        args.write.write_text(replace(args.write.read_text(), made))
    else:
        print(*(f"{name}\n\n{table}" for name, table in made.items()), sep="\n")


if __name__ == "__main__":
    main()
