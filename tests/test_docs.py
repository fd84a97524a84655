"""Pages stay short, and what they point at is there."""

import ast
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from jaxrobust import attacks, evaluation

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
LONGEST = {"README.md": 400, "ARCHITECTURE.md": 1200}


@pytest.mark.parametrize("name", LONGEST)
def test_pages_are_short(name):
    words = (ROOT / name).read_text().split()
    assert len(words) <= LONGEST[name]


def test_the_tree_is_that_of_the_package():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    tree = text.split("    jaxrobust/\n")[1].split("\n\n")[0]
    told = {line.split()[0].rstrip("/") for line in tree.splitlines()}
    found = {p.name for p in (ROOT / "jaxrobust").iterdir() if p.name[:2] != "__"}
    assert told == found - {"py.typed"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_configs_and_code_that_are_named_exist(page):
    text = page.read_text()
    for config in re.findall(r"configs/\w+\.py", text):
        assert (ROOT / config).is_file(), config
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        ast.parse(block)


# Examples that only what a training leaves could run are not here.
RUN = ["README.md", "docs/index.md", "docs/how_to/attack.md", "docs/how_to/zoo.md"]
RUN += ["docs/how_to/attack_odd_defences.md"]
RUN += ["docs/how_to/defend_by_preprocessing.md"]
RUN += ["docs/coming_from"]


def runnable(page):
    """The page's Python, without the other libraries' lines of a comparison."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    parts = [part for block in blocks for part in block.split("\n\n")]
    own = [part for part in parts if "# there" not in part]
    return "\n\n".join(own if len(own) < len(parts) else parts)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.full] * (page.name == "attack.md"))
        for name in RUN
        for page in ([ROOT / name] if name.endswith(".md") else (ROOT / name).glob("*"))
    ],
    ids=lambda page: page.name,
)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key = jax.random.key(0)
    w = jax.random.normal(key, (64, 3))
    given = {
        "attacks": attacks,
        "evaluation": evaluation,
        "jax": jax,
        "key": key,
        "logits_fn": lambda x: x.reshape(len(x), -1) @ w,
        "x": jax.random.uniform(key, (4, 8, 8, 1)),
        "y": jnp.arange(4) % 3,
    }
    exec(compile(runnable(page), page.name, "exec"), given)


def test_every_package_has_a_page_of_reference():
    packages = {p.parent.name for p in ROOT.glob("jaxrobust/*/__init__.py")}
    pages = {page.stem for page in (ROOT / "docs/reference").glob("*.md")}
    assert packages - pages == {"runtime"}


def test_tutorials_are_pages_of_the_site():
    # That they run, and that links and anchors lead somewhere, the build looks at.
    nav = (ROOT / "mkdocs.yml").read_text()
    tutorials = [*ROOT.glob("docs/tutorials/*.py")]
    assert tutorials
    for tutorial in tutorials:
        ast.parse(tutorial.read_text())
        assert f"tutorials/{tutorial.stem}.md" in nav
