"""What would change the number: the next attack, its cost and its command."""

import pytest

from jaxrobust.evaluation import adaptive, attack_text
from jaxrobust.report import changes, commands
from jaxrobust.report.blocks import CommandLine, Text
from jaxrobust.report.source import RunFiles
from jaxrobust.results import Results, read

MAIN = "python -m jaxrobust.main --config=quickstart --mode eval --workdir=runs/a"
THEIRS = "python -m jaxrobust.evaluation --model a:b --data digits --suite=gradient"
FLAG = {"name": "zero_gradients", "message": "m.", "severe": True}


def told(results, command=MAIN):
    """Paragraphs, and the commands below them."""
    source = RunFiles(results=read(Results, results), command=command)
    blocks = changes.changes(source, source.results)
    texts = [one.text for one in blocks if isinstance(one, Text)]
    return texts, [one.text for one in blocks if isinstance(one, CommandLine)]


def test_autoattack_comes_first_with_its_cost_and_command(make_results):
    results = make_results(0.4)
    results["attacks"][1] |= {"steps": 20, "seconds": 40.0}  # 1,000 gradients a second
    texts, found = told(results)
    assert texts[0].startswith("The strongest attack not yet run: AutoAttack, standard")
    # 800 images of (1,910 gradients and 5,901 forward passes, of a third each).
    assert (
        "1,910 gradients and 5,901 forward passes at most for each of the 800"
        in (texts[0])
    )
    assert f"about {800 * (1910 + 5901 / 3) / 1000 / 60:.0f} minutes" in texts[0]
    assert "at the speed of pgd20" in texts[0]
    assert found[0] == (
        "jaxrobust evaluate --config=quickstart --workdir=runs/a "
        "--attack=autoattack:eps=8/255,norm=linf"
    )
    assert texts[1].startswith("After that: the suite adaptive.")
    assert found[1].endswith("--workdir=runs/a --config.eval.suite=adaptive")


def test_a_flag_brings_the_adaptive_suite_to_the_front(make_results):
    [first, second, *_], _ = told(make_results(0.4) | {"flags": [FLAG]})
    assert "suite adaptive. A warning sign rose" in first
    assert "AutoAttack, standard" in second


def test_after_autoattack_and_adaptive_there_is_plus(make_results, make_autoattack):
    results = make_results(0.4) | {"suite": "adaptive"}
    results["attacks"].append(make_autoattack())
    [first, second, *_], found = told(results, THEIRS)
    assert "AutoAttack, plus" in first
    assert "apgd_targeted with more starts" in second
    # 2,000 images in 12.5 seconds of its stages; all images meet it.
    assert "for each of 2,000 images" in second
    assert found[0] == (
        "jaxrobust attack --model a:b --data digits "
        "--attack=autoattack:eps=8/255,norm=linf,version=plus"
    )


@pytest.mark.parametrize(
    ("kind", "first", "python"),
    [
        ({"black_box": True}, "run: square", "attacks.square(logits_fn, x, y, key=key"),
        ({"randomised": {"draws": 20}}, "AutoAttack, rand", "version='rand')"),
    ],
)
def test_other_networks_have_attacks_of_their_own(kind, first, python, make_results):
    texts, found = told(make_results(0.4) | kind, "")
    assert first in texts[0]
    assert "gradients" not in texts[0] or "black_box" not in kind
    assert python in found[0]
    assert "eps=8/255" in found[0]


def test_wide_intervals_ask_for_more_examples(make_results):
    results = make_results(0.4) | {"data": {"name": "x", "of": 10_000}}
    results["worst_case"]["ci95"] = [0.36, 0.44]
    texts, found = told(results)
    assert (
        "8.0 points wide; 8,000 of the 10,000 images would make it about 4.0"
        in (texts[2])
    )
    assert "about 2 minutes" in texts[2]  # four times 25 seconds
    assert found[2].endswith("--config.eval.examples=8000")
    _, found = told(results, "python -m jaxrobust.main --mode=eval --workdir=a")
    assert found[2] == "jaxrobust evaluate --workdir=a --config.eval.examples=8000"


def test_where_nothing_is_left_there_is_nothing_to_run(make_results):
    results = make_results(0.4)
    results["worst_case"] |= {"robust_accuracy": 0.0, "ci95": [0, 0.01]}
    [text], found = told(results)
    assert "no image is left" in text
    assert not found


def test_options_that_a_file_makes_up_cost_nothing(make_results):
    for value in (10**400, "x", None, -1, [3], 1e300, True):
        results = make_results(0.4)
        results["attacks"][1] |= {"restarts": value, "targets": value}
        results["attacks"][1]["eps_text"] = "__import__('os')"
        _, found = told(results, "python -m jaxrobust.main '")
        assert "eps=0.0313725" in found[0]


@pytest.mark.parametrize(
    ("version", "norm", "gradients"),
    [
        ("standard", "linf", 101 + 9 * 101 + 9 * 100),
        ("standard", "l1", 5 * 103 + 5 * 103 + 9 * 100),
        ("plus", "l2", 2 * 5 * 101 + 5 * 100 * 10 + 9 * 101 + 9 * 100),
        ("rand", "linf", 2 * 20 * 101),
    ],
)
def test_autoattack_costs_what_its_stages_do(version, norm, gradients, make_results):
    results = make_results(0.4) | {
        "randomised": {"draws": 20} if version == "rand" else None
    }
    for attack in results["attacks"]:
        attack["norm"] = norm
    if version == "plus":
        results["attacks"][1] |= {"name": "autoattack", "version": "standard"}
    [told_of] = [text for text in told(results)[0] if f"AutoAttack, {version}" in text]
    assert f" {gradients:,} gradients" in told_of


@pytest.mark.parametrize("method", ["", "fpd", "pcl", "pc_lc", "ssc", "ssp"])
def test_the_adaptive_suite_costs_no_more_than_is_said(method):
    own = adaptive.table(method, "8/255").values()
    long = [(one["steps"], one["restarts"]) for one in own if "steps" in one]
    assert len(long) <= len(changes.ADAPTIVE)
    [(name, options), *_] = changes.ADAPTIVE
    assert name == "apgd"  # a step of PGD costs as much
    assert set(long) == {(options["steps"], options["restarts"])}


def test_commands_are_understood_where_they_go(make_results):
    for results in (make_results(0.4), make_results(0.4) | {"black_box": True}):
        _, found = told(results)
        for text in (c.partition("--attack=")[2] for c in found):
            assert not text or attack_text.table([text], eps="8/255")


def test_commands_are_of_the_evaluation_and_of_the_folder():
    """Of what an evaluation set nothing is lost; a copy of a folder is meant itself."""
    line = (
        "python -m jaxrobust.main --mode=eval --workdir=runs/a --checkpoint=last "
        "--config.eval.preprocessing=jpeg:75 --config.eval.examples=32 --attack=fgsm"
    )
    kept = "--checkpoint=last --config.eval.preprocessing=jpeg:75"
    more = commands.Step("examples", "64", "")
    assert commands.following(line, more, "runs/copy") == (
        f"jaxrobust evaluate {kept} --attack=fgsm --workdir=runs/copy "
        "--config.eval.examples=64"
    )
    suite = commands.Step("suite", "adaptive", "")
    assert commands.following(line, suite, "runs/copy") == (
        f"jaxrobust evaluate {kept} --config.eval.examples=32 --workdir=runs/copy "
        "--config.eval.suite=adaptive"
    )


def test_a_twins_command_is_for_both():
    line = "python -m jaxrobust.main --config=quickstart --workdir=a"
    step = commands.Step("attack", "square", "")
    found = commands.following(line, step, "runs/q/twin")
    assert (
        found
        == "jaxrobust evaluate --config=quickstart --workdir=runs/q --attack=square"
    )


def test_a_suite_would_have_another_radius(make_results):
    line = "python -m jaxrobust.main --mode=eval --workdir=a"
    texts, _ = told(make_results(0.4), line)
    assert any("the suite adaptive" in text for text in texts)
    texts, _ = told(make_results(0.4), f"{line} --attack=fgsm:eps=0.02")
    assert not any("the suite adaptive" in text for text in texts)


def test_flags_are_taken_out_with_their_values():
    step = commands.Step("attack", "square", "")
    line = f"{MAIN} --attack pgd -attack=fgsm --config.eval.suite adaptive --mode=eval"
    assert commands.following(line, step) == (
        "jaxrobust evaluate --config=quickstart --workdir=runs/a --attack=square"
    )
