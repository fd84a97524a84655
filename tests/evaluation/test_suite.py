"""Suites as configs write them, and the messages about mistakes."""

import pytest

from jaxrobust.evaluation import suite


@pytest.mark.parametrize(
    ("text", "radius"), [("8/255", 8 / 255), ("0.3", 0.3), (0.5, 0.5), (1, 1), ("0", 0)]
)
def test_radii(text, radius):
    assert suite.parse_radius(text) == radius


@pytest.mark.parametrize("bad", ["8/0", "x", "-1/255", -0.1, float("nan"), None, "inf"])
def test_bad_radii_are_refused(bad):
    with pytest.raises(ValueError, match=f"`eps` must be .*got {bad!r}"):
        suite.parse_radius(bad)


def test_read_keeps_order_and_parses_radii():
    table = suite.get("gradient", eps="8/255", step_size="2/255")
    entries = suite.read(table)
    assert [entry.label for entry in entries] == ["fgsm", "pgd20", "ball"]
    assert entries[1].hyperparameters["step_size"] == 2 / 255
    assert entries[1].describe()["eps_text"] == "8/255"
    assert entries[1].ball().eps == 8 / 255


def test_ssp2020_starts_at_the_image():
    table = suite.get("ssp2020", eps="8/255", step_size="2/255")
    assert table["pgd20"]["random_start"] is False


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="Did you mean 'ssp2020'"):
        suite.get("ssp2021", eps="1", step_size="1")
    with pytest.raises(ValueError, match=r"pgdd.*pgd"):
        suite.read({"a": {"name": "pgdd", "eps": "1"}})
    with pytest.raises(ValueError, match="attack 'a' of the suite has no `eps`"):
        suite.read({"a": {"name": "pgd"}})
    with pytest.raises(ValueError, match="`step_size` must be"):
        suite.read({"a": {"name": "pgd", "eps": "1", "step_size": "z", "steps": 1}})
    with pytest.raises(ValueError, match=r"`eps` must be .*-1"):
        suite.read({"a": {"name": "pgd", "eps": "-1", "steps": 1}})


@pytest.mark.parametrize("data", ["mnist", "digits", "cifar10", "npz:mine.npz"])
@pytest.mark.parametrize("name", suite.SUITES)
def test_every_protocol_is_readable_on_every_set(name, data):
    entries, pending = suite.chosen({"suite": name}, data)
    assert {e.label for e in entries} | {p.label for p in pending} == set(
        suite.get(name, data=data)
    )
    assert entries or name == "transfer"  # which needs a source
    assert all(entry.eps is None or entry.eps > 0 for entry in entries)


def described(name, data):
    entries, _ = suite.chosen({"suite": name}, data)
    return {entry.label: entry.describe() for entry in entries}


def algorithms(name, data):
    return {entry["name"] for entry in suite.get(name, data=data).values()}


def test_pcl2019_is_the_papers_table():
    ready = described("pcl2019", "cifar10")
    assert list(ready) == ["fgsm", "bim10", "mim10", "pgd10"]
    assert {entry["eps_text"] for entry in ready.values()} == {"8/255"}
    for label in ("bim10", "mim10"):
        assert ready[label]["step_size"] == pytest.approx(0.8 / 255)
    assert ready["mim10"]["decay"] == 1
    assert ready["pgd10"]["step_size"] == pytest.approx(2 / 255)
    assert ready["pgd10"]["random_start"] is False
    assert described("pcl2019", "mnist")["pgd10"]["eps_text"] == "0.3"


def test_fpd2020_radii_depend_on_the_set():
    ready = described("fpd2020", "mnist")
    assert (ready["pgd40"]["eps"], ready["pgd40_l2"]["eps"]) == (0.3, 1.5)
    assert (ready["pgd40"]["step_size"], ready["pgd40"]["steps"]) == (0.01, 40)
    assert ready["fgsm_l1"]["norm"] == "l1"
    other = described("fpd2020", "svhn_cropped")
    assert other["fgsm_l2"]["eps_text"] == other["pgd40"]["eps_text"] == "8/255"
    assert other["pgd40"]["step_size"] == 2 / 255
    names = algorithms("fpd2020", "mnist")
    assert names >= {"cw_l2", "cw_linf", "deepfool", "jsma", "zoo", "hop_skip_jump"}
    assert names >= {"fgsm", "pgd", "bim", "transfer"}


def test_pclc2021_attacks_at_several_radii():
    ready = described("pclc2021", "tiny_imagenet")
    for eps in ("0.005", "0.01", "0.015"):
        assert ready[f"pgd10_{eps}"]["random_start"] is True
        assert ready[f"mim10_{eps}"]["step_size"] == pytest.approx(float(eps) / 10)
        assert ready[f"fgsm_{eps}"]["eps_text"] == eps
    assert algorithms("pclc2021", "cifar10") >= {"cw_l2", "spsa", "transfer"}


def test_ssc2024_attacks():
    ready = described("ssc2024", "cifar100")
    assert [entry["eps"] for entry in ready.values()] == [0.03, 0.3, 0.1]
    assert ready["mim20"]["decay"] == 0.9


def test_ssp2020_takes_the_radius_of_the_set_or_the_one_given():
    assert suite.get("ssp2020", data="mnist")["pgd20"]["eps"] == "0.3"
    assert suite.get("ssp2020", data="fmnist")["pgd20"]["step_size"] == "0.02"
    assert suite.get("ssp2020", data="mnist", eps="0.1")["fgsm"]["eps"] == "0.1"


def test_a_protocol_takes_no_radius_and_the_table_is_the_default():
    with pytest.raises(ValueError, match=r"'pcl2019' has the paper's radii.*'0.03'"):
        suite.get("pcl2019", eps="0.03")
    table = {"a": {"name": "fgsm", "eps": "0.1"}}
    for fields in ({"attacks": table}, {"attacks": table, "suite": ""}):
        entries, pending = suite.chosen(fields, "mnist")
        assert [entry.label for entry in entries] == ["a"]
        assert pending == []
    with pytest.raises(ValueError, match="Did you mean 'pcl2019'"):
        suite.chosen({"attacks": table, "suite": "pcl2018"}, "mnist")


OUT_OF_RANGE = (
    ("apgd", "rho", (-0.1, 1.5)),
    ("apgd_targeted", "targets", (0, 10**9)),
    ("bim", "step_size", ("0", 0.0)),
    ("cw_l2", "lr", (0, -1, 1e30)),
    ("cw_l2", "kappa", (-1, 1e30)),
    ("cw_l2", "binary_steps", (0, 10**9)),
    ("cw_linf", "initial_const", (0, 1e30)),
    ("cw_linf", "largest_const", (0, 1e30)),
    ("cw_linf", "rounds", (0, 10**7, 10**9)),
    ("deepfool", "overshoot", (-1, 1e30)),
    ("fab", "alpha_max", (0, 2)),
    ("fab", "beta", (0, 7)),
    ("fab", "eta", (0.5, 1e3)),
    ("hop_skip_jump", "queries", (0, -1, 10**9)),
    ("hop_skip_jump", "gamma", (0, 1e30)),
    ("jsma", "gamma", (0, 2)),
    ("mim", "decay", (-1, 100)),
    ("spsa", "delta", (0, 1e30)),
    ("spsa", "samples", (0, 1, 10**9)),
    ("square", "p_init", (0, 1.5)),
    ("square", "queries", (0, 10**9)),
    ("zoo", "h", (0, 1e30)),
    ("zoo", "const", (0, 1e30)),
    ("zoo", "coordinates", (0, 10**9)),
)


@pytest.mark.parametrize(("name", "option", "values"), OUT_OF_RANGE)
def test_options_out_of_range_are_told_before_any_work(name, option, values):
    """Once as read from a config, with the name of what is wrong."""
    own = suite.own_norm(name) or "linf"
    needed = {"bim": {"steps": 2}, "mim": {"steps": 2, "step_size": 0.1}}
    for value in values:
        fields = {"name": name, "eps": "0.1", "norm": own, **needed.get(name, {})}
        with pytest.raises((ValueError, TypeError)) as error:
            suite.read({"theirs": {**fields, option: value}})
        text = str(error.value)
        assert "attack 'theirs'" in text
        assert option in text or "2^31" in text


def test_suites_are_joined():
    fields = {"suite": "attacks+adaptive", "attacks": suite.get("gradient", eps="0.1")}
    table = suite.table(fields, "mnist", "ssp")
    assert list(table)[:3] == ["fgsm", "pgd20", "ball"]
    assert {"autoattack", "apgd_margin"} <= table.keys()
    assert {one["eps"] for one in table.values()} == {"0.1"}
    # The same attack once, another one of that label with its suite in front.
    table = suite.table({**fields, "suite": "attacks+attacks+ssp2020"}, "mnist")
    labels = ["fgsm", "pgd20", "ball"]
    assert list(table) == [*labels, *(f"ssp2020_{label}" for label in labels)]
    assert table["ssp2020_pgd20"]["random_start"] is False
    for right in ("", "adaptive", "attacks+ssp2020"):
        assert suite.is_name(right)
    for wrong in ("adaptiv", "attacks+", "+", None):
        assert not suite.is_name(wrong)
