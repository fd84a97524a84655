"""What the words of the page mean, each said once; the page links to them."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from jaxrobust.attacks import registry


class Term(NamedTuple):
    """A word, how else it is written, and what it means in a sentence or two."""

    name: str
    text: str
    also: tuple[str, ...] = ()


_OURS = (
    Term(
        "clean accuracy",
        "The share of test images that are classified correctly as they are.",
        ("clean",),
    ),
    Term(
        "robust accuracy",
        "The share of test images that are classified correctly as they are and under "
        "every attack that was tried. Stronger attacks can only lower it.",
    ),
    Term(
        "worst case",
        "Per image, over all attacks with a radius: an image that any of them turns is "
        "not robust.",
        ("worst case of all attacks",),
    ),
    Term(
        "95 % interval",
        "Where the share would lie for all such images, as far as these few can tell: "
        "an interval made so holds it 19 times out of 20 (Wilson 1927).",
        ("95 % intervals", "Intervals"),
    ),
    Term(
        "threat",
        "What an adversary may do to an image: a norm, a radius eps, and no value "
        "below 0 or above 1.",
    ),
    Term(
        "L∞",
        "The largest change of any value of an image: within eps 8/255 no value moves "
        "by more than 8 of 255 levels.",
        ("linf",),
    ),
    Term("L2", "The length of the change: the root of the sum of its squares."),
    Term("L1", "The sum of the changes of all values, each taken as positive."),
    Term(
        "eps",
        "The radius: how large a change may be, in its norm, of images in [0, 1].",
    ),
    Term(
        "AutoAttack",
        "Four attacks one after the other with published settings: APGD on two losses, "
        "FAB, and Square, which needs no gradients (Croce and Hein 2020). The usual "
        "measure of robustness.",
        ("autoattack",),
    ),
    Term(
        "twin",
        "The same network trained with another objective, on the same images, to "
        "compare with.",
        ("its twin",),
    ),
    Term(
        "transfer",
        "An attack whose images are made on another network and handed over.",
    ),
    Term(
        "masked gradients",
        "Gradients that hide mistakes from attacks instead of removing them: the "
        "network looks robust to those who follow its gradient (Athalye et al. 2018).",
    ),
    Term(
        "perturbation",
        "The difference between an attacked image and the clean one.",
        ("perturbations",),
    ),
    Term(
        "growth ratio",
        "By how much a stage of a network enlarges a perturbation on its way through "
        "(Kim et al. 2020). Below 1 it shrinks.",
        ("Perturbation growth ratio",),
    ),
    Term(
        "probability gap",
        "The probability of the true class minus that of the best other one: negative "
        "where the network is wrong.",
    ),
    Term(
        "prototypes",
        "The centre of a class among the features of a layer, as training left it.",
        ("Distances to prototypes",),
    ),
    Term(
        "penultimate features",
        "What a network computes right before its logits.",
        ("Penultimate features",),
    ),
    Term(
        "loss surface",
        "The loss of one image over a plane through it: along an attack and along a "
        "random direction. A smooth slope is what gradients can follow.",
        ("Loss surface",),
    ),
    Term(
        "corruptions",
        "Noise, blur, weather and compression as they happen, aimed at nobody.",
        ("Corruptions", "all corruptions"),
    ),
    Term(
        "gradients",
        "How often the network was differentiated, in images; each has a forward pass "
        "in it.",
    ),
    Term("forwards", "How often the network was asked for logits alone, in images."),
)
_ACCESS = {
    "gradient": "It follows gradients.",
    "scores": "It asks for logits alone.",
    "decisions": "It asks for the class alone.",
}


def _of_attack(name: str, of: registry.Traits) -> Term:
    """Makes a term of what an attack says of itself, without its markup."""
    first, _, _ = (of.function.__doc__ or name).partition("\n\n")
    said = " ".join(first.replace("`", "").split())
    also = (other for other in registry.names() if registry.traits(other) is of)
    return Term(name, f"{said} {_ACCESS[of.access]}", tuple(also))


def key(name: str) -> str:
    """Returns the anchor of a term."""
    return "term-" + re.sub(r"[^a-z0-9]+", "-", name.lower().replace("∞", "inf"))


_ATTACKS = {**registry.table(), **registry.other_threats()}
TERMS: Mapping[str, Term] = {
    key(term.name): term
    for term in (*_OURS, *(_of_attack(*one) for one in _ATTACKS.items()))
}
_BY_WORD = {
    word: anchor for anchor, term in TERMS.items() for word in (term.name, *term.also)
}
_ANY = "|".join(map(re.escape, sorted(_BY_WORD, key=len, reverse=True)))
_WORDS = re.compile(rf"(?<![\w-])({_ANY})\d*(?![\w-])")  # pgd20 is pgd


def split(text: str, seen: set[str]) -> Iterator[tuple[str, str | None]]:
    """Yields parts of a text, with the anchor of the term that a part is.

    A term counts where it stands first: not if it is `seen`, to which it is added.
    """
    end = 0
    for found in _WORDS.finditer(text):
        anchor = _BY_WORD[found[1]]
        if anchor not in seen:
            seen.add(anchor)
            yield text[end : found.start()], None
            yield found[0], anchor
            end = found.end()
    yield text[end:], None


def used(page: str) -> list[tuple[str, Term]]:
    """Returns the terms that a page links to, with their anchors, in order."""
    linked = set(re.findall(r'href="#(term-[^"]+)"', page))
    return [(anchor, term) for anchor, term in TERMS.items() if anchor in linked]
