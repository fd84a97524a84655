"""A run that goes on knows its data again, and keeps held out what was held out."""

import json
import re
from typing import Any

import chex
import numpy as np
import pytest

from jaxrobust import data
from jaxrobust.training import config as common
from jaxrobust.training import setup, splits

NAMES = ("a", "b", "c")
DRAWN = np.random.default_rng(0)
IMAGES = DRAWN.integers(0, 256, (60, 4, 4, 1), np.uint8)
LABELS = np.tile(np.arange(3, dtype=np.int32), 20)


def made(rows: Any = range(60), images=IMAGES, labels=LABELS, names=NAMES):
    rows = np.asarray(rows)
    return data.Dataset(images[rows], labels[rows], names)


def fields_of(**changes):
    config = common.base().to_dict()
    config["data"] |= {"name": "mine", "validation_examples": 12}
    config["train"] |= changes
    return config


def load(monkeypatch, dataset, before=None, **changes):
    monkeypatch.setattr(data, "open_source", lambda *args, **kwargs: dataset)
    return setup.load_train(fields_of(**changes), before)


def others():
    images = IMAGES.copy()
    images[50] ^= 1
    return images


CLASSES = {
    "the same": (NAMES, None),
    "in another order": (("b", "a", "c"), "has another label"),
    "one renamed, which moves the others": (("b", "c", "z"), "has another label"),
    "one renamed": (("a", "b", "z"), "taken for the same, one by one"),
    "others": (("x", "y", "z"), "taken for the same, one by one"),
    "numbers": (("0", "1", "2"), None),
    "fewer": (("a", "b"), None),
}


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("place", ["", "checkpoints/12"])
def test_classes_of_an_evaluation(kind, place, monkeypatch, tmp_path, caplog):
    *_, record = load(monkeypatch, made())
    record.write(tmp_path)
    names, message = CLASSES[kind]
    if message and "label" in message:
        with pytest.raises(ValueError, match=rf"\('a', 'b', 'c'\) of mine.*{message}"):
            splits.check_classes(tmp_path / place, names, "theirs")
        return
    splits.check_classes(tmp_path / place, names, "theirs")
    assert (message or "") in caplog.text
    assert bool(message) == bool(caplog.records)


def test_weights_that_do_not_tell_their_classes(tmp_path, caplog):
    splits.check_classes(tmp_path, ("b", "a"), "theirs")
    assert not caplog.records


CHANGED = {
    "fewer": made(range(50)),
    "more": made([*range(60), 3, 4]),
    "another order": made(range(59, -1, -1)),
    "another pixel": made(images=others()),
    "another label": made(labels=np.roll(LABELS, 1)),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_changed_data_are_refused_and_never_mixed(kind, monkeypatch, tmp_path):
    _, held_out, _, record = load(monkeypatch, made())
    record.write(tmp_path)
    before, changed = splits.read_seen(tmp_path), CHANGED[kind]
    with pytest.raises(
        ValueError, match=rf"mine .* 60 images then, {len(changed)} now"
    ):
        load(monkeypatch, changed, before)
    found = load(monkeypatch, changed, before, allow_changed_data=True)
    for images, inside in ((found[0], False), (found[1], True)):
        known = np.isin(data.image_digests(images), data.image_digests(held_out))
        assert (known == inside).all()
    assert len(found[0]) + len(found[1]) == len(changed)
    # And so in the runs after it, also if what was missing comes back.
    again = load(monkeypatch, changed, found[3])
    chex.assert_trees_all_equal(again[1].images, found[1].images)
    back = load(monkeypatch, made(), found[3], allow_changed_data=True)
    assert not np.isin(data.image_digests(back[0]), data.image_digests(held_out)).any()


def test_the_same_data_are_divided_as_before(monkeypatch):
    first = load(monkeypatch, made())
    again = load(monkeypatch, made(), first[3])
    assert again[3] is first[3]
    for a, b in zip(first[:2], again[:2], strict=True):
        chex.assert_trees_all_equal(data.image_digests(a), data.image_digests(b))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (made(names=("a", "c", "b")), "classes differ: 3 .'a', 'b', 'c'. then"),
        (made(images=~IMAGES), "0 of them were held out"),
    ],
)
def test_some_changes_are_refused_in_any_case(changed, said, monkeypatch):
    before = load(monkeypatch, made())[3]
    with pytest.raises(ValueError, match=said):
        load(monkeypatch, changed, before, allow_changed_data=True)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"name": 1', '{"rows": "x"}', "null", "\x00"]
)
def test_a_damaged_record_is_told(content, tmp_path):
    assert splits.read_seen(tmp_path) is None
    (tmp_path / splits.FILE).write_text(content)
    with pytest.raises(ValueError, match=r"training_data\.json is damaged"):
        splits.read_seen(tmp_path)


def test_the_record_holds_plain_data(monkeypatch, tmp_path):
    record = load(monkeypatch, made())[3]
    record.write(tmp_path)
    fields = json.loads((tmp_path / splits.FILE).read_text())
    assert fields["examples"] == 60
    assert len(fields["held_out"]) == len(fields["rows"]) == 12


def test_more_are_held_out_than_there_are(monkeypatch):
    with pytest.raises(ValueError, match=r"`data\.validation_examples` must be below"):
        load(monkeypatch, made(range(12)))


@pytest.mark.parametrize(
    ("changed", "wanted", "held", "said"),
    [
        (made(), 12, 12, ""),
        (made(), 6, 6, ""),
        (made(), 20, None, "of the 20 images held out here were trained on by"),
        (CHANGED["another order"], 12, 12, ""),
        (CHANGED["more"], 9, 9, ""),
        (made(images=~IMAGES), 12, None, "12 of the 12 .* may have been trained on by"),
    ],
)
def test_what_another_network_held_out_stays_so(
    changed, wanted, held, said, monkeypatch, tmp_path, caplog
):
    _, before, _, record = load(monkeypatch, made())
    record.write(tmp_path)
    fields = fields_of(init_from=str(tmp_path / "checkpoints" / "12"))
    fields["data"]["validation_examples"] = wanted
    fields["seed"] = 1
    monkeypatch.setattr(data, "open_source", lambda *args, **kwargs: changed)
    _, now, _, _ = setup.load_train(fields)
    assert len(now) == wanted
    known = np.isin(data.image_digests(now), data.image_digests(before))
    assert held is None or known.sum() == held
    assert bool(said) == bool(caplog.records)
    assert re.search(said, caplog.text)


def test_a_network_without_a_record_is_told(monkeypatch, tmp_path, caplog):
    load(monkeypatch, made(), init_from=str(tmp_path))
    assert "does not tell that the images held out here were not" in caplog.text


def test_a_run_without_a_record_is_refused(tmp_path, caplog):
    with pytest.raises(ValueError, match=r"has checkpoints and no training_data\.json"):
        splits.require_record(tmp_path, allowed=False)
    splits.require_record(tmp_path, allowed=True)
    assert "images are held out as at a first start" in caplog.text
