"""Our attacks against the same ones of torchattacks, adv-lib and Foolbox, one by one.

    pip install -e '.[torch]' torchattacks==3.5.1 adv-lib==0.2.8 foolbox==3.3.4
    python -m benchmarks.attacks_vs_peers [--only pgd,fab] [--kept FILE]

A LeNet-5 of the zoo (and the same weights in torch), the first images of MNIST's test
set that it tells right. Beside the seconds, ours over theirs, stands what was found:
the share of images left right for attacks within a radius, the median distance for
those that look for the smallest perturbation (infinite where none was found), both
judged by our network. The first call compiles (ours: nothing is kept on disk); the
later number is of the fastest of `--repeats` more, of a peer that takes longer than ten
seconds that of the first. Seconds are of the process's CPU time on one core,
which other work on the machine does not change; on more, torch's threads wait for each
other. `calls` are images that a peer asks the network about, per image. Each finished
part is lines of `--kept`: run again to go on.
"""

import argparse
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from benchmarks.bare_calls import LeNet
from benchmarks.peers import Case, cases
from jaxrobust import attacks, convert, models, threat, tune_cpu, zoo
from jaxrobust.attacks import registry

NETWORK = "mnist_lenet5_pclc_0"
_LONG = 10


class Counted(torch.nn.Module):
    """A network that counts the images it is asked about."""

    def __init__(self, net: torch.nn.Module) -> None:
        """Keeps the network."""
        super().__init__()
        self.net, self.count = net, 0

    def forward(self, x: Any) -> Any:
        """Computes logits."""
        self.count += len(x)
        return self.net(x)


class Setting:
    """The network in both forms, and images that it tells right."""

    def __init__(self, examples: int) -> None:
        """Loads them; logits must agree."""
        model, variables, card = zoo.load(NETWORK)
        self.logits_fn = models.logits_fn(model, variables)
        net = LeNet()
        weights = convert.to_torch(model, variables, input_shape=(1, *card.input_shape))
        net.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
        self.net = Counted(net).eval()
        x, y = zoo.images(card, 2 * examples)
        right = jnp.argmax(self.logits_fn(x), axis=1) == y
        self.x, self.y = x[right][:examples], y[right][:examples]
        self.xt = torch.from_numpy(np.array(self.x).transpose(0, 3, 1, 2).copy())
        self.yt = torch.from_numpy(np.array(self.y)).long()
        with torch.no_grad():
            theirs = net(self.xt).numpy()
        np.testing.assert_allclose(self.logits_fn(self.x), theirs, rtol=1e-3, atol=1e-4)

    def found(self, case: Case, x_adv: Any) -> float:
        """The share left right, or the median distance."""
        x_adv = jnp.asarray(x_adv)
        left = jnp.argmax(self.logits_fn(x_adv), axis=1) == self.y
        norm: Any = case.norm
        distance = threat.distance(x_adv, self.x, norm=norm)
        if case.eps is None:
            return float(jnp.median(jnp.where(left, jnp.inf, distance)))
        inside = distance <= case.eps + 1e-6
        return float(jnp.mean(left | ~inside))


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and its result."""
    begin = time.process_time()
    result = jax.block_until_ready(call())
    return time.process_time() - begin, result


def ours(setting: Setting, case: Case) -> Callable[[], Any]:
    """One call of our attack."""
    norms = {"norm": case.norm} if "norm" in registry.parameters(case.attack) else {}
    options: Any = norms | {"eps": case.eps} | dict(case.options)
    attack = attacks.get(case.attack, **options)
    return lambda: attack(setting.logits_fn, setting.x, setting.y, jax.random.key(0))


def theirs(setting: Setting, case: Case, peer: str) -> Callable[[], Any]:
    """One call of a peer's attack, on the same images."""

    def call() -> np.ndarray:
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 (peers draw from it)
        setting.net.count = 0
        x_adv = case.peers[peer](setting.net, setting.xt.clone(), setting.yt.clone())
        return x_adv.detach().numpy().transpose(0, 2, 3, 1)

    return call


def measure(setting: Setting, case: Case, repeats: int) -> list[dict[str, Any]]:
    """Returns a row for ours and one per peer."""
    rows = []
    for who in ("jaxrobust", *case.peers):
        mine = who == "jaxrobust"
        call = ours(setting, case) if mine else theirs(setting, case, who)
        row: dict[str, Any] = {"attack": case.attack, "norm": case.norm, "who": who}
        try:
            first, x_adv = timed(call)
            long = not mine and first > _LONG
            again = [timed(call)[0] for _ in range(0 if long else repeats)]
        except Exception as error:
            if mine:
                raise
            text = str(error).partition("\n")[0][:60]
            rows.append(row | {"failed": f"{type(error).__name__}: {text}"})
            continue
        calls = None if mine else setting.net.count / len(setting.y)
        row |= {"first": first, "later": min(again, default=first), "calls": calls}
        rows.append(row | {"found": setting.found(case, x_adv)})
    return rows


def told(rows: list[Mapping[str, Any]]) -> None:
    """Prints a Markdown table."""
    print("| attack | norm | peer | found: ours, theirs | first | later | calls |")
    print("|---|---|---|---|---|---|---|")
    mine = {(r["attack"], r["norm"]): r for r in rows if r["who"] == "jaxrobust"}
    for row in rows:
        if row["who"] == "jaxrobust":
            continue
        own = mine[row["attack"], row["norm"]]
        begin = f"| `{row['attack']}` | {row['norm']} | {row['who']} |"
        if why := row.get("failed"):
            print(begin, why, "| | | |")
            continue
        times = (
            f"{own[k]:.3g} / {row[k]:.3g} s = {own[k] / row[k]:.2f}"
            for k in ("first", "later")
        )
        found = f"{own['found']:.4g}, {row['found']:.4g}"
        print(begin, found, "|", " | ".join(times), f"| {row['calls']:.0f} |")


def main() -> None:
    """Measures what is not yet kept, and prints all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", default="", help="attacks, comma-separated")
    parser.add_argument("--kept", type=pathlib.Path, default="attacks_vs_peers.jsonl")
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    tune_cpu()
    jax.config.update("jax_enable_compilation_cache", False)
    text = args.kept.read_text() if args.kept.exists() else ""
    rows = [json.loads(line) for line in text.splitlines()]
    done = {(row["attack"], row["norm"]) for row in rows}
    only, setting = set(filter(None, args.only.split(","))), Setting(args.examples)
    for case in cases():
        if (case.attack, case.norm) in done or (only and case.attack not in only):
            continue
        new = measure(setting, case, args.repeats)
        with args.kept.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in new)
        rows += new
        print(case.attack, case.norm, flush=True)
    told(rows)


if __name__ == "__main__":
    main()
