"""Building HTML: everything that is not markup is escaped."""

import base64
import html
import importlib.resources
import io
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from jaxrobust.report import terms

# Nothing may be loaded, so nothing is ever asked of the network.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | Iterable["Content"] | None
Section = list[Markup] | Markup | None  # of the page


def visible(text: str, keep: str = "") -> str:
    """Writes control characters, and what is no text at all, as Python would."""
    return "".join(
        c
        if c.isprintable() or c in keep or unicodedata.category(c) == "Zs"
        else c.encode("unicode_escape").decode()
        for c in text
    )


def render(content: Content) -> str:
    """Turns content into HTML; a plain string is escaped."""
    if content is None:
        return ""
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return html.escape(visible(content, keep="\n\t"))
    return "".join(map(render, content))


def tag(name: str, *content: Content, **attributes: str | int | bool | None) -> Markup:
    """Makes an element; `_` in an attribute's name is `-`, or dropped at the end."""
    text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(visible(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{text}>{render(content)}</{name}>")


def explained(content: Content, seen: set[str] | None = None) -> Content:
    """Links the terms in a plain text to what the page says of them, each once."""
    if not isinstance(content, str) or isinstance(content, Markup):
        return content
    parts = terms.split(content, set() if seen is None else seen)
    return [
        tag("a", text, href=f"#{anchor}", title=terms.TERMS[anchor].text, class_="term")
        if anchor
        else text
        for text, anchor in parts
    ]


def glossary(page: str) -> Markup:
    """Says what the terms mean that a page links to."""
    rows = [
        (tag("dt", term.name, id_=anchor), tag("dd", term.text))
        for anchor, term in terms.used(page)
    ]
    return (
        Markup(tag("h2", "Terms") + tag("dl", rows, class_="terms"))
        if rows
        else Markup()
    )


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Content]],
    *,
    right: Sequence[int] = (),
    last_class: str | None = None,
) -> Markup:
    """Makes a table that scrolls in its own frame; columns `right` are numbers."""

    def cells(name: str, row: Sequence[Content]) -> list[Markup]:
        return [
            tag(name, cell, class_="right" if column in right else None)
            for column, cell in enumerate(row)
        ]

    seen: set[str] = set()
    top = tag("thead", tag("tr", cells("th", [explained(h, seen) for h in head])))
    body = [cells("td", row) for row in rows]
    body = [tag("tr", r, class_=last_class if r is body[-1] else None) for r in body]
    whole = tag("table", top, tag("tbody", body))
    return tag("div", whole, class_="scroll", tabindex=0)


def image(pixels: np.ndarray, alt: str) -> Markup:
    """Embeds an image [H, W, C] with values in [0, 1] (C = 1, 3 or other) as PNG."""
    levels = np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    if levels.shape[-1] != 3:
        levels = levels[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return Markup(
        f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}" '
        f'width="{levels.shape[1]}" height="{levels.shape[0]}">'
    )


def card(svg: str, title: str, caption: Content = None) -> Markup:
    """Puts a drawing with its title and caption on a card."""
    note = tag("figcaption", explained(caption)) if caption else None
    return tag("figure", tag("h3", title), Markup(svg), note, class_="card")


def details(summary: str, *content: Content) -> Markup:
    """Puts content behind a line that opens it."""
    return tag("details", tag("summary", summary), *content)


def page(title: str, *sections: Content, foot: Content = None) -> str:
    """Makes the whole document; what its terms mean stands before the foot."""
    style = (importlib.resources.files("jaxrobust.report") / "style.css").read_text()
    head = [
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<link rel="icon" href="data:,">'),
        tag("title", title),
        tag("style", Markup(style)),
    ]
    told = render(sections)
    body = tag("body", tag("main", Markup(told), glossary(told), foot))
    return "<!doctype html>\n" + tag("html", tag("head", head), body, lang="en") + "\n"
