"""Attacks written on the command line."""

import hypothesis
import hypothesis.strategies as st
import pytest

from jaxrobust import attacks, threat
from jaxrobust.attacks import registry
from jaxrobust.evaluation import attack_text, suite

EPS = "8/255"


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("fgsm", {"norm": "linf", "eps": EPS}),
        (
            "pgd:eps=4/255,steps=50,loss=margin",
            {"norm": "linf", "eps": "4/255", "steps": 50, "loss": "margin"}
            | {"step_size": pytest.approx(4 / 255 / 20)},
        ),
        ("pgd : steps = 2 , step_size = .1", {"steps": 2, "step_size": ".1"}),
        ("mim", {"steps": 20, "step_size": pytest.approx(1 / 255)}),
        ("pgd:random_start=false", {"random_start": False}),
        ("square:p_init=1/2,queries=7", {"p_init": 0.5, "queries": 7}),
        ("spsa:lr=1", {"lr": 1.0, "norm": "linf", "eps": EPS}),
        # In another norm than the evaluation's: the smallest, where an attack looks.
        ("cw_l2:steps=3", {"norm": "l2", "eps": None, "steps": 3}),
        ("deepfool", {"norm": "l2", "eps": None}),
        ("deepfool:norm=linf", {"norm": "linf", "eps": EPS}),
        ("hop_skip_jump:eps=any", {"norm": "linf", "eps": None}),
        ("fab:targets=none", {"targets": None}),
        ("pgd:norm=l2,eps=.5", {"norm": "l2", "eps": ".5"}),
        ("autoattack:version=plus,slots=16", {"version": "plus", "slots": 16}),
        ("transfer:attack=pgd,source=runs/a", {"attack": "pgd", "source": "runs/a"}),
    ],
)
def test_an_attack_as_text(text, fields):
    [(label, found)] = attack_text.table([text], eps=EPS).items()
    assert label == found["name"] == text.partition(":")[0].strip()
    assert {name: found[name] for name in fields} == fields


@pytest.mark.parametrize("name", attacks.names())
def test_every_attack_goes_by_its_name_alone(name):
    """But for those that change so many pixels: a radius in Linf says nothing of it."""
    of, text = registry.traits(name), name
    if of.goal == "radius" and of.norm in threat.SPARSE:
        with pytest.raises(ValueError, match="needs an `eps`"):
            attack_text.table([name], eps=EPS)
        text = f"{name}:eps=5"
    [entry] = suite.read(attack_text.table([text], eps=EPS))
    assert entry.name == name


def test_the_same_attack_with_other_options_gets_another_label():
    table = attack_text.table(["pgd", "fgsm", "pgd:steps=5", "pgd:steps=6"], eps=EPS)
    assert list(table) == ["pgd", "fgsm", "pgd_2", "pgd_3"]


def test_on_a_randomised_model_attacks_average():
    texts = ["pgd", "apgd:eot_samples=3", "autoattack"]
    table = attack_text.table(texts, eps=EPS, draws=7)
    assert table["pgd"]["stochastic"] is True
    assert table["pgd"]["eot_samples"] == 7
    assert table["apgd"]["eot_samples"] == 3
    assert table["autoattack"]["version"] == "rand"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["pgd:"], "must be NAME:option=value,... such as pgd:eps=8/255"),
        ([""], "must be NAME:option=value"),
        ([":x"], "must be NAME:option=value"),
        (["pgd::"], "':' must be option=value"),
        (["pgd:eps"], "'eps' must be option=value"),
        (["pgd:eps="], "'eps=' must be option=value"),
        (["pgd:eps=8/255,"], "'' must be option=value"),
        (["pgd:=3"], "'=3' must be option=value"),
        (["pgd:eps=1,eps=2"], "`eps` is given twice"),
        (["pgd", "pgd"], "'pgd' is given twice"),
        (["pdg"], "unknown attack 'pdg'. Did you mean 'pgd'"),
        (["a" * 9000], "unknown attack 'aaa"),
        (["pgd:step=3"], "pgd has no option 'step'. Did you mean 'steps'"),
        (["pgd:__class__=1"], "pgd has no option '__class__'"),
        (["pgd:key=1"], "pgd has no option 'key'"),
        (["pgd:stochastic=true"], "pgd has no option 'stochastic'"),
        (["pgd:targeted=true"], "pgd has no option 'targeted'"),
        (["fgsm:steps=3"], "fgsm has no option 'steps'"),
        (["pgd:eps=nan"], "`eps` of `pgd` must be a number of at least 0"),
        (["pgd:eps=inf"], "got 'inf'"),
        (["pgd:eps=1e999999999"], "got '1e999999999'"),
        (["pgd:eps=-1"], "got '-1'"),
        (["pgd:eps=8/0"], "got '8/0'"),
        (["pgd:eps=[1;2]"], "got '[1;2]'"),
        (["pgd:eps=[1,2]"], "got '[1,2]'"),
        (["pgd:eps=none"], "needs an `eps`"),
        (["pgd:step_size=x"], "`step_size` of `pgd` must be a number"),
        (["pgd:norm=l2"], "needs an `eps`: the radius of the evaluation, 8/255, is of"),
        (["pgd:norm=l7"], "Unknown norm 'l7'. Did you mean"),
        (["pgd:steps=1e9"], "`steps` must be a whole number in digits, got '1e9'"),
        (["pgd:steps=true"], "`steps` must be a whole number in digits, got 'true'"),
        ([f"pgd:steps={'9' * 400}"], "`steps` must be a smaller whole number, got"),
        (["pgd:steps=-1"], "`steps` must be at least 0, got -1"),
        (["pgd:loss=margins"], "Unknown loss 'margins'. Did you mean 'margin'"),
        (["pgd:random_start=1"], "`random_start` must be true or false, got '1'"),
        (["pgd:eot_samples=3"], "give it with --stochastic"),
        (["mim:decay=x"], "`decay` must be a number, got 'x'"),
        (["spsa:lr=inf"], "`lr` must be a number, got 'inf'"),
        (["autoattack:version=standart"], "Did you mean 'standard'"),
        (["autoattack:eps=0"], "positive `eps`"),
        (["transfer"], "transfer needs attack=NAME"),
        (["transfer:attack=pgdd"], "Did you mean 'pgd'"),
        (["transfer:attack=pgd"], "transfer needs eval.transfer_from"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_line(texts, message):
    with pytest.raises((ValueError, TypeError)) as caught:
        attack_text.table(texts, eps=EPS)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@hypothesis.given(
    st.one_of(
        st.text(max_size=30),
        st.builds(
            "{}:{}={}".format,
            st.sampled_from(attacks.names()),
            st.sampled_from(["eps", "steps", "loss", "norm", "queries", "lr"]),
            st.text(max_size=10) | st.floats().map(str),
        ),
    )
)
def test_any_text_is_read_or_told(text):
    said = ""
    try:
        attack_text.table([text], eps=EPS)
    except (ValueError, TypeError) as error:
        said = str(error)
    assert "\n" not in said
