"""Many runs on one page: what each reaches, their curves, and every pair compared."""

from collections.abc import Sequence
from pathlib import PurePath

from etils import epath

from jaxrobust.report import html
from jaxrobust.report.many import figures, pairs, table
from jaxrobust.report.many.groups import EvaluatedRun, grouped
from jaxrobust.report.many.pairs import Pair
from jaxrobust.runtime import files


def write(
    path: epath.PathLike,
    runs: Sequence[EvaluatedRun],
    compared: Sequence[Pair] = (),
    left_out: Sequence[str] = (),
) -> PurePath:
    """Writes one self-contained page about many runs; returns its path.

    Args:
      path: the file, replaced if it is there.
      runs: what lies in their folders.
      compared: every two of them, image by image, as far as that can be done.
      left_out: what else was named, each with the reason why it is not here.
    """
    groups = grouped(runs)
    seeds = f"{len(groups)} configs" if len(groups) != len(runs) else ""
    head = f"{len(runs)} runs{' of ' * bool(seeds)}{seeds}"
    text = html.page(
        f"{head} compared",
        html.tag("header", html.tag("h1", head)),
        [html.tag("p", f"Left out: {line}", class_="note") for line in left_out],
        table.results(groups),
        table.configs(groups),
        figures.robustness(groups),
        figures.training(groups),
        figures.growth(groups),
        pairs.transfers(runs),
        pairs.tests(compared),
        html.tag("footer", "Made by jaxrobust from the files of the runs."),
    )
    target = files.expand(path)
    files.write_text(target, text)
    return target
