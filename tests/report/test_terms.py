"""Links that explain terms: each has its target on the page, and each term one text."""

import re

import pytest

from jaxrobust import report
from jaxrobust.attacks import registry
from jaxrobust.report import html, terms


def test_each_link_has_its_target(full_run):
    text = report.write(full_run).read_text()
    linked = set(re.findall(r'href="#([^"]+)"', text))
    assert len(linked) > 10
    assert {"term-pgd", "term-fgsm", "term-linf", "term-95-interval"} <= linked
    targets = re.findall(r' id="(term-[^"]+)"', text)
    assert len(targets) == len(set(targets))
    assert {one for one in linked if one.startswith("term-")} == set(targets)
    assert text.count("<h2>Terms</h2>") == 1


def test_every_attack_of_ours_is_a_term():
    for name in registry.table():
        assert name in terms.TERMS[terms.key(name)].name
    names = [term.name for term in terms.TERMS.values()]
    assert len({terms.key(name) for name in names}) == len(names)
    assert all(term.text.endswith(".") for term in terms.TERMS.values())


@pytest.mark.parametrize(
    ("text", "linked"),
    [
        ("pgd20 and pgd", ["pgd20"]),  # once
        ("cw_l2 in L2, eps 1", ["cw_l2", "L2", "eps"]),
        ("my_pgd, pgd-like, repgd", []),
        ("worst case of all attacks", ["worst case of all attacks"]),
        ("<b>eps</b>", ["eps"]),
    ],
)
def test_words_are_found_whole(text, linked):
    parts = list(terms.split(text, set()))
    assert "".join(part for part, _ in parts) == text
    assert [part for part, anchor in parts if anchor] == linked
    assert re.sub(r"</?a[^>]*>", "", html.render(html.explained(text))) == (
        html.render(text)
    )


def test_a_page_without_terms_has_no_glossary():
    assert not html.glossary("<p>nothing</p>")
    assert html.explained(html.Markup("eps")) == "eps"
