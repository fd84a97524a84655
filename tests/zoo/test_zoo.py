"""The networks that are shipped, damaged files, and the doors that `zoo:NAME` opens."""

import hashlib
import json

import chex
import jax
import numpy as np
import pytest

from jaxrobust import checkpoints, cli, convert, models, zoo
from jaxrobust.convert import __main__ as convert_program
from jaxrobust.evaluation import __main__ as attack_program
from jaxrobust.evaluation import evaluator, external, setting, suite, transfer
from jaxrobust.runtime import safetensors
from jaxrobust.training import check, program, splits, start
from jaxrobust.training.config import completed
from jaxrobust.zoo import card_files, publish
from tests.marks import full_but

NAME = "digits_ssp_pgd"
DIGITS = [name for name in zoo.names() if zoo.card(name).data == "digits"]


def test_the_shipped_files_belong_together_and_are_small():
    folder = zoo.folder()
    weights = sorted((folder / "weights").iterdir())
    assert [file.stem for file in weights] == list(zoo.names())
    sizes = [file.stat().st_size for file in weights]
    assert max(sizes) <= zoo.LARGEST
    assert sum(sizes) <= publish.IN_ALL
    for file in weights:
        card = zoo.card(file.stem)
        assert hashlib.sha256(file.read_bytes()).hexdigest() == card.sha256
        assert any(a.name == "autoattack" for a in card.results.attacks)
        left = card.results.worst_case.robust_accuracy
        assert left <= min(a.robust_accuracy for a in card.results.attacks if a.eps)
        assert card.hours
        assert card.title
        assert (card.norm, card.eps) in {
            (a.norm, a.eps_text) for a in card.results.attacks
        }


@pytest.mark.parametrize("name", full_but(zoo.names(), DIGITS))
def test_shipped_networks_have_the_clean_accuracy_of_their_card(name):
    model, variables, card = zoo.load(name)
    assert card.parameters == sum(p.size for p in jax.tree.leaves(variables["params"]))
    try:
        test = evaluator.load_test(card.config)
    except FileNotFoundError:
        pytest.skip(f"{card.data} is not here")
    rows = setting.picked(len(test), card.results.clean.n)
    logits_fn = jax.jit(models.logits_fn(model, variables))
    predicted = [
        logits_fn(test.images[part] / np.float32(255)).argmax(-1)
        for part in np.array_split(rows, max(1, len(rows) // 500))
    ]
    found = (np.concatenate(predicted) == test.labels[rows]).mean()
    assert abs(found - card.results.clean.accuracy) <= 1 / len(rows)


def test_an_unknown_name_is_told_with_the_nearest():
    for call in (
        zoo.load,
        zoo.card,
        lambda name: checkpoints.load(f"zoo:{name}"),
        lambda name: checkpoints.exists(f"zoo:{name}"),
    ):
        with pytest.raises(ValueError, match=r"`name` must .*_pdg'. Did .*pgd"):
            call("digits_ssp_pdg")
    with pytest.raises(ValueError, match="`name` must be one of"):
        zoo.load("../cards/digits_ssp_pgd")


def change(path, value):
    """Returns what sets a part of a card; None takes it out."""

    def changed(card):
        *above, key = path.split(".")
        table = card
        for name in above:
            table = table[name]
        if value is None:
            del table[key]
        else:
            table[key] = value

    return changed


EVIL = "evil.module:run"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (change("version", 99), "of version 99, and this jaxrobust reads up to 1"),
        (change("sha256", None), "has no `sha256`"),
        (change("sha256", "x"), "`sha256` must be a sha256"),
        (change("name", "other"), "it is the card of 'other'"),
        (change("name", "../x"), "`name` must be small letters"),
        (
            change("results.clean.accuracy", 1.5),
            "`results.clean.accuracy` must be",
        ),
        (change("results.attacks", {}), "`results.attacks` must be a list"),
        (change("config.model", None), "its config has no model.name"),
        (change("config.seed", "0"), "its config has no seed"),
        (change("config.model.name", EVIL), "its network is code from outside"),
        (change("config.objective.name", EVIL), "objective.name is 'evil.module:run'"),
        (change("title", "see /home/me/runs"), "a path of one machine"),
        (change("command", "rm -rf x"), "its command is not jaxrobust train CONFIG"),
        (change("command", "jaxrobust train a/x.py"), "its command is not"),
        (change("command", "jaxrobust train x --workdir=y"), "its command is not"),
        *(
            (
                change("command", f"jaxrobust train x --config.{field}"),
                "its command is not",
            )
            for field in (
                f"model.name={EVIL}",
                f"model.name={EVIL}.method",
                f"log.writers=tensorboard,{EVIL}",
                f"eval.own_analyses=\"{{'a':{{'name':'{EVIL}'}}}}\"",
            )
        ),
    ],
)
def test_a_damaged_card_is_one_line_that_names_the_file(changed, message, own_zoo):
    file = card_files.path(own_zoo, NAME)
    content = json.loads(file.read_text())
    changed(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"zoo/cards/digits_ssp_pgd\.json") as caught:
        zoo.card(NAME)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_card_cut_short_or_too_large(own_zoo):
    file = card_files.path(own_zoo, NAME)
    for content, message in ((b'{"name"', "damaged"), (b" " * (2 << 20), "at most")):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"{NAME}.json.*{message}"):
            zoo.card(NAME)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda arrays: arrays.popitem(), " lacks "),
        (lambda arrays: arrays.update(x=np.zeros(1, "f4")), " has a strange x"),
        (lambda arrays: arrays.update({k: v[:1] for k, v in arrays.items()}), " is ("),
        (lambda arrays: arrays.update({k: v.astype("f8") for k, v in arrays.items()}),
         "of the kind float64"),
    ],
)  # fmt: skip
def test_weights_of_another_network_are_refused(changed, message, own_zoo):
    file = zoo.weights_path(own_zoo, NAME)
    arrays = safetensors.decode(file.read_bytes())
    changed(arrays)
    content = safetensors.encode(arrays)
    told = json.loads(card_files.path(own_zoo, NAME).read_text())
    told["sha256"] = hashlib.sha256(content).hexdigest()
    card_files.path(own_zoo, NAME).write_text(json.dumps(told))
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"zoo/weights/digits_ssp_pgd\.safe") as caught:
        zoo.load(NAME)
    assert message in str(caught.value)


def test_weights_that_are_damaged_too_large_or_gone(own_zoo, monkeypatch):
    file = zoo.weights_path(own_zoo, NAME)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{NAME}.safetensors is not what its card"):
        zoo.load(NAME)
    monkeypatch.setattr(zoo, "LARGEST", 1000)
    with pytest.raises(ValueError, match=f"{NAME}.safetensors has .* at most"):
        zoo.load(NAME)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=f"{NAME}.safetensors"):
        zoo.load(NAME)


def test_checkpoints_load_it_as_any_other():
    model, variables, card = zoo.load(NAME)
    for which in checkpoints.WHICH:
        other, same, config = checkpoints.load(f"zoo:{NAME}", which)
        assert other == model
        assert config == card.config
        chex.assert_trees_all_equal(same, variables)
    assert checkpoints.exists(f"zoo:{NAME}")
    with pytest.raises(ValueError, match="`which` must be one of"):
        checkpoints.load(f"zoo:{NAME}", "newest")


@pytest.mark.parametrize("given", [False, True])
def test_it_is_evaluated_by_its_own_config_or_that_of_the_caller(
    given, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        program.evaluation,
        "evaluate",
        lambda model, variables, config, **_: seen.append((variables, config)),
    )
    config = completed(zoo.card(NAME).config)
    if given:
        config["eval"]["batch_size"] = 17
    program.run(config if given else None, str(tmp_path), "eval", f"zoo:{NAME}", "", [])
    [(variables, used)] = seen
    chex.assert_trees_all_equal(variables, zoo.load(NAME)[1])
    assert used["eval"]["batch_size"] == (17 if given else 200)
    assert set(used["eval"]["attacks"]) >= {"autoattack", "pgd20"}


def test_classes_in_another_order_are_refused():
    splits.check_classes(f"zoo:{NAME}", [str(i) for i in range(10)], "digits")
    names = ["a", "b"]
    with pytest.MonkeyPatch.context() as patch:
        found = ("b", "a"), "letters"
        patch.setattr(splits, "_classes_of", lambda source: found)
        with pytest.raises(ValueError, match="the same class has another label"):
            splits.check_classes(f"zoo:{NAME}", names, "digits")


def test_a_training_starts_from_it_and_attacks_transfer_from_it():
    _, variables, card = zoo.load(NAME)
    config = completed(card.config)
    config["train"]["init_from"] = f"zoo:{NAME}"
    zeros = jax.tree.map(np.zeros_like, variables)
    example = np.zeros((1, *card.input_shape), np.float32)
    chex.assert_trees_all_equal(start.start_from(config, zeros, example), variables)
    entry = {"name": "transfer", "attack": "fgsm", "norm": "linf", "eps": "0.1"}
    entry["source"] = f"zoo:{NAME}"
    config["eval"].update(suite="", attacks={"t": entry})
    check.check(config)
    entries, _ = suite.chosen(config["eval"], "digits")
    test = evaluator.load_test(config)
    [connected] = transfer.connect(entries, 10, test, "digits")
    [(_, source)] = connected.networks
    chex.assert_trees_all_equal(source, variables)


def test_programs_take_it(tmp_path):
    model, variables, _ = zoo.load(NAME)
    x = np.full((2, 12, 12, 1), 0.5, np.float32)
    logits = models.logits_fn(model, variables)(x)
    np.testing.assert_array_equal(external.load(f"zoo:{NAME}")(x), logits)
    file = tmp_path / "w.safetensors"
    argv = [
        f"zoo:{NAME}",
        f"--to-torch={file}",
        *["--input-shape", "1", "12", "12", "1"],
    ]
    assert convert_program.main(argv) == 0
    back = convert.from_torch(
        model, safetensors.decode(file.read_bytes()), input_shape=(1, 12, 12, 1)
    )
    chex.assert_trees_all_equal(back, variables)
    found = cli.expand(["evaluate", f"zoo:{NAME}", "--attack=fgsm"])
    assert found[1] == ["--mode=eval", f"--checkpoint=zoo:{NAME}", "--attack=fgsm"]


def test_the_attack_program_takes_data_and_threat_of_the_card():
    args = attack_program.parser().parse_args([f"--model=zoo:{NAME}"])
    attack_program._use_card(args)
    assert (args.data, args.image_size, args.eps, args.norm) == (
        "digits",
        12,
        "0.1",
        "linf",
    )
    given = [f"--model=zoo:{NAME}", "--data=mnist", "--norm=l2"]
    args = attack_program.parser().parse_args(given)
    attack_program._use_card(args)
    assert (args.data, args.image_size) == ("mnist", 0)
    assert (args.eps, args.norm) == (None, "l2")
