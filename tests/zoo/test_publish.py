"""From a run to the zoo and back, and what the zoo does not take."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from jaxrobust import zoo
from jaxrobust.results import typed
from jaxrobust.runtime import files
from jaxrobust.zoo import card_files, publish

NAME = "digits_ssp_pgd"
COMMAND = "python -m jaxrobust.main --config configs/quickstart.py:x=1 --workdir /a/b"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A work directory that has the config, results and network of a card."""
    model, variables, card = zoo.load(NAME)
    folder = tmp_path / "run"
    folder.mkdir()
    config = json.loads(json.dumps(card.config))
    write(folder, config, card.results)
    given = {"variables": variables}
    monkeypatch.setattr(
        publish.checkpoints,
        "load",
        lambda path, which: (model, given["variables"], config),
    )
    return folder, config, card, given


def write(folder, config, results, command=COMMAND):
    folder.mkdir(exist_ok=True)
    files.write_json(folder / "config.json", {"config": config, "command": command})
    files.write_json(folder / "results.json", typed.as_json(results))


def test_there_and_back(run, tmp_path, capsys):
    folder, config, card, _ = run
    rows = [{"step": 10 * i, "images_per_second": 64.0} for i in (1, 2, 2, 3)]
    lines = "\n".join(map(json.dumps, rows))
    (folder / "metrics.jsonl").write_text(lines)
    write(folder / "paper", config, card.results)
    target = tmp_path / "zoo"
    argv = [str(folder), "--name=mine", f"--to={target}", "--title=A title"]
    assert publish.main(argv) == 0
    assert "zoo:mine  A title: worst case" in capsys.readouterr().out
    made = card_files.read(card_files.path(target, "mine"))
    assert made.sha256 == card.sha256
    assert made.command == "jaxrobust train quickstart:x=1"
    assert card_files.arguments(made.command) == ["--config=quickstart:x=1"]
    assert made.hours == round(30 / 3600, 4)
    assert made.paper.fields == card.config["eval"]
    # As text: what is absent is NaN, which from Python 3.13 on equals nothing here.
    assert repr(made.paper.results) == repr(card.results)
    same = dataclasses.replace(
        card, name="mine", title="A title", command=made.command, hours=made.hours
    )
    assert repr(dataclasses.replace(made, paper=None)) == repr(same)


def no_autoattack(config, results):
    config["eval"].update(suite="", attacks={})
    return dataclasses.replace(results, attacks=[])


def other_attacks(config, results):
    return dataclasses.replace(results, attacks=results.attacks[:-1])


def own_network(config, results):
    config["model"]["name"] = "mine:build"
    return results


def own_data(config, results):
    config["data"]["name"] = "npz:mine.npz"
    return results


def own_transfer(config, results):
    entry = {"name": "transfer", "attack": "fgsm", "eps": "0.1", "source": "runs/x"}
    config["eval"].update(suite="", attacks={"autoattack": entry})
    [strong] = [one for one in results.attacks if one.label == "autoattack"]
    return dataclasses.replace(results, attacks=[strong])


def named_path(config, results):
    config["train"]["init_from"] = "/home/me/runs/x"
    return results


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (no_autoattack, "was evaluated without AutoAttack"),
        (other_attacks, "has results of other attacks than its config.json"),
        (own_network, "has the model 'mine:build' from outside"),
        (own_data, "has the data 'npz:mine.npz' from outside"),
        (own_transfer, "transfers from 'runs/x', which nobody else has"),
        (named_path, "names a path of one machine, '/home/me/runs/x'"),
    ],
)
def test_what_a_run_has_is_refused(changed, message, run, tmp_path):
    folder, config, card, _ = run
    write(folder, config, changed(config, card.results))
    refused(folder, tmp_path, message)


def refused(folder, tmp_path, message):
    target = tmp_path / "zoo"
    with pytest.raises(ValueError, match=re.escape(message)):
        publish.publish(str(folder), "mine", target=target)
    assert not target.exists()


@pytest.mark.parametrize(
    "command", ["", "python x.py", f"{COMMAND} --speed=3", "a b c --config=/home/x.py"]
)
def test_a_command_that_trains_nowhere_else_is_refused(command, run, tmp_path):
    folder, config, card, _ = run
    write(folder, config, card.results, command)
    refused(folder, tmp_path, "by a config of ours and --config.FIELD=VALUE")


def test_weights_that_are_refused(run, tmp_path, monkeypatch):
    folder, _, _, given = run
    right = given["variables"]
    given["variables"] = jax.tree.map(lambda leaf: leaf * np.nan, right)
    refused(folder, tmp_path, "are not finite")
    given["variables"] = jax.tree.map(lambda leaf: leaf * 1.1, right)
    refused(folder, tmp_path, "say which was evaluated with --checkpoint")
    given["variables"] = right
    monkeypatch.setattr(publish, "IN_ALL", 50_000)
    refused(folder, tmp_path, "it has room for 50000")
    monkeypatch.setattr(zoo, "LARGEST", 50_000)
    refused(folder, tmp_path, "a network of the zoo at most 50000")


def test_what_is_no_run(tmp_path, capsys):
    assert publish.main([f"zoo:{NAME}", "--name=x"]) == 1
    assert "is in the zoo already" in capsys.readouterr().err
    assert publish.main([str(tmp_path), "--name=x"]) == 1
    assert "config.json" in capsys.readouterr().err
