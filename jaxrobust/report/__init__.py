"""The report: one self-contained page from the files of a work directory."""

from pathlib import PurePath

from etils import epath

from jaxrobust.report import attacks, figures, html, pictures, sections, source
from jaxrobust.runtime import files


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
    try:
        text = _page(found, own)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # files that pass alone may not fit together
        [reason, *_] = str(error).splitlines() or [""]
        raise ValueError(
            f"{path.parent}: results.json, evaluation.npz and metrics.jsonl cannot be "
            f"shown together ({type(error).__name__}: {reason[:200]}); evaluate that "
            "run again (--mode=eval)."
        ) from error
    files.write_text(path, text)
    return path


def _page(found: source.RunFiles, own: figures.OwnFigures) -> str:
    """Makes the page of what was read."""
    title = str(found.config.get("name") or "jaxrobust run")
    return html.page(
        f"{title}: robustness report",
        html.tag("header", html.tag("h1", title), sections.subtitle(found)),
        sections.head(found),
        sections.flags(found),
        attacks.attacks(found),
        sections.curves(found),
        sections.corruptions(found),
        pictures.images(found),
        pictures.restored(found),
        sections.analyses(found, own),
        sections.training(found),
        sections.reproduce(found),
        html.tag("footer", "Made by jaxrobust from the files beside this page."),
    )
