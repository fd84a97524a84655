"""The report: a self-contained page of a work directory, and the same in brief."""

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from etils import epath

from jaxrobust.report import (
    attacks,
    brief,
    figures,
    forms,
    html,
    pictures,
    sections,
    source,
)
from jaxrobust.report.forms import tell as tell
from jaxrobust.results import Results, read
from jaxrobust.runtime import files

FORMS = tuple(forms.FORMS)  # of a summary


def write(workdir: epath.PathLike, own: figures.OwnFigures = figures.NONE) -> PurePath:
    """Writes `report.html` from what lies in a work directory; returns its path.

    Reads `config.json`, `metrics.jsonl`, `results.json`, `evaluation.npz` and the same
    in `twin/`; what is missing is left out. The page needs no network and no scripts.
    `own` draws, by label, results and arrays of an analysis from outside; without, its
    numbers are a table.

    Raises:
      FileNotFoundError: if there is nothing to report.
      ValueError: naming a file that is damaged, or files that do not fit together.
    """
    found = source.read(workdir)
    path = files.expand(workdir) / "report.html"
    files.write_text(path, _fitting(path.parent, lambda: _page(found, own)))
    return path


def summary(
    results: epath.PathLike | Results | Mapping[str, Any], form: str = "text"
) -> str:
    """Says in short what the page says, for a terminal or a pull request.

    Args:
      results: a work directory (whose config and twin are read too), `Results`, or
        what `evaluation.evaluate` returned.
      form: `text`, lines without colours, or `markdown`, as GitHub reads it.

    Raises:
      FileNotFoundError, ValueError: as `write`; ValueError for another form.
    """
    if form not in FORMS:
        raise ValueError(f"`form` must be one of {', '.join(FORMS)}, got {form!r}.")
    if isinstance(results, Mapping):
        results = read(Results, files.as_plain(results))
    if isinstance(results, Results):
        found, place = source.RunFiles(results=results), "these results"
    else:
        found, place = source.read(results), files.expand(results)
    return _fitting(place, lambda: forms.FORMS[form](brief.summary(found)))


def _fitting(place: object, make: Callable[[], str]) -> str:
    """Makes text of what was read, or says that it does not fit together."""
    try:
        return make()
    except (MemoryError, OSError):
        raise
    except Exception as error:  # files that pass alone may not fit together
        [reason, *_] = str(error).splitlines() or [""]
        raise ValueError(
            f"{place}: results.json, evaluation.npz and metrics.jsonl cannot be "
            f"shown together ({type(error).__name__}: {reason[:200]}); evaluate that "
            "run again (--mode=eval)."
        ) from error


def _page(found: source.RunFiles, own: figures.OwnFigures) -> str:
    """Makes the page of what was read."""
    title = brief.title_of(found)
    return html.page(
        f"{title}: robustness report",
        html.tag("header", html.tag("h1", title), sections.subtitle(found)),
        sections.head(found),
        sections.flags(found),
        attacks.attacks(found),
        sections.next_attacks(found),
        sections.curves(found),
        sections.corruptions(found),
        pictures.images(found),
        pictures.restored(found),
        sections.analyses(found, own),
        sections.training(found),
        sections.reproduce(found),
        foot=html.tag("footer", "Made by jaxrobust from the files beside this page."),
    )
