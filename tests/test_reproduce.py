"""`jaxrobust reproduce`: the rule, and the command on a few images."""

import json

import pytest

from jaxrobust import reproduce, zoo
from jaxrobust.evaluation import statistics
from jaxrobust.reproduce import Row

NAME = "digits_ssp_pgd"


def row(shipped, n, found, found_n):
    first = statistics.wilson_interval(round(shipped * n), n)
    second = statistics.wilson_interval(round(found * found_n), found_n)
    return Row("x", shipped, first, n, found, second, found_n)


@pytest.mark.parametrize(
    ("found", "n", "same", "trained"),
    [
        (0.9, 1000, True, True),
        (0.885, 1000, True, True),
        (0.87, 1000, False, True),  # in the other's interval, on other weights
        (0.8, 1000, False, False),
        (0.8, 20, True, True),
        (0.65, 20, True, True),  # a choice of images that is rare, but happens
        (0.5, 20, False, False),
    ],
)
def test_the_rule(found, n, same, trained):
    assert row(0.9, 1000, found, n).holds() == same
    assert row(0.9, 1000, found, n).holds(trained=True) == trained


def test_a_few_images_of_a_shipped_network(tmp_path, capsys):
    argv = [NAME, "--examples=10", "--only=fgsm", "--only=pgd20"]
    argv.append(f"--workdir={tmp_path}")
    assert reproduce.main(argv) == 0
    out = capsys.readouterr().out
    for label in ("clean", "fgsm", "pgd20"):
        [line] = [line for line in out.splitlines() if line.startswith(label)]
        assert line.endswith("10  yes")
    assert "worst case" not in out
    results = json.loads((tmp_path / "results.json").read_text())
    assert [one["label"] for one in results["attacks"]] == ["fgsm", "pgd20"]
    assert "growth" not in results


def test_what_is_proved_is_reproduced(tmp_path, capsys):
    argv = ["mnist_small_ibp_01", "--examples=40", "--only=fgsm"]
    assert reproduce.main([*argv, f"--workdir={tmp_path}"]) == 0
    assert zoo.card("mnist_small_ibp_01").results.certified.proved > 0.95
    out = capsys.readouterr().out
    [line] = [line for line in out.splitlines() if line.startswith("proved")]
    assert line.endswith("40  yes")


def test_a_number_that_does_not_hold_is_status_1(tmp_path, capsys, monkeypatch):
    model, _, card = zoo.load("digits_ssp_standard")
    wrong = zoo.load("digits_ssp_standard")[1]
    monkeypatch.setattr(zoo, "load", lambda name: (model, wrong, card))
    argv = [NAME, "--examples=120", "--only=pgd20", f"--workdir={tmp_path}"]
    assert reproduce.main(argv) == 1
    assert "not reproduced: pgd20" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["digits_ssp_pdg"], "Did you mean 'digits_ssp_pgd'"),
        ([NAME, "--examples=1000"], "`examples` must be 0 (all) to 360"),
        ([NAME, "--only=pgd"], "`only` must be one of"),
    ],
)
def test_mistakes_are_one_line(argv, message, tmp_path, capsys):
    assert reproduce.main([*argv, f"--workdir={tmp_path}"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_the_list_has_all(capsys):
    assert reproduce.main(["--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in zoo.names())


def test_training_again_is_the_command_of_the_card(tmp_path, monkeypatch, capsys):
    seen = []

    class Done:
        returncode = 3

    monkeypatch.setattr(
        reproduce.subprocess, "run", lambda command: seen.append(command) or Done
    )
    assert reproduce.main([NAME, "--train", f"--workdir={tmp_path}"]) == 2
    assert "the training ended with status 3" in capsys.readouterr().err
    [[_, *words]] = seen
    assert words[:3] == ["-m", "jaxrobust.main", "--config=quickstart"]
    assert words[-2:] == ["--mode=train", f"--workdir={tmp_path}/training"]


@pytest.mark.full
@pytest.mark.parametrize("name", zoo.names())
def test_every_row(name, tmp_path):
    assert reproduce.main([name, f"--workdir={tmp_path}"]) == 0
