"""Functions of other packages: found, wrapped, and evaluated from the command line."""

import importlib
import json
import re
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import data, models
from jaxrobust.evaluation import __main__ as program
from jaxrobust.evaluation import black_box, external, step
from tests.marks import full_but

N, EPS = 40, 0.1
THEIRS = '''
import jax, jax.numpy as jnp, numpy as np
with np.load(r"{path}") as arrays:
    W = arrays["w"]
B = jnp.asarray(W.sum() / 2)

def logits(x):
    score = x.reshape(len(x), -1) @ W.reshape(-1) - B
    return jnp.stack([jnp.zeros_like(score), score], -1)

def wide(x):
    """The same for images in [-1, 1]."""
    return logits((x + 1) / 2)

def build():
    return jax.jit(logits)

class Net:
    def logits(self, x):
        return logits(x)

net = Net()
number = 3
three = lambda x: jnp.zeros((len(x), 3))
flat = lambda x: logits(x)[:, 1]
whole = lambda x: logits(x).argmax(-1)[:, None] + jnp.zeros((1, 2), int)
in_numpy = lambda x: np.tanh(x).sum((1, 2))
large = lambda x: x.reshape(len(x), 25) @ jnp.ones((25, 2))
nan = lambda x: logits(x) * jnp.nan
batch = lambda x: logits(x) - logits(x).mean(0, keepdims=True)
rng = np.random.default_rng(0)
drawn = lambda x: logits(x) + rng.normal(size=(1, 2))
def hosted(x):
    x = np.asarray(x)
    score = x.reshape(len(x), -1) @ np.asarray(W).reshape(-1) - np.asarray(B)
    return np.stack([np.zeros_like(score), score], -1)
hosted_first = lambda x: hosted(np.asarray(x).transpose(0, 2, 3, 1))
hosted_flat = lambda x: hosted(x)[:, 1]
def hosted_in_place(x):
    x -= 1.0
    x += 1.0
    return hosted(x)
def hosted_votes(x):
    return np.eye(2)[hosted(x).argmax(-1)]
hosted_nan = lambda x: hosted(x) * np.nan
def hosted_fails(x):
    raise OSError("no such service")
def noisy(x, keys):
    return logits(x + 0.1 * jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(keys))
one_key = lambda x, keys: logits(x) + jax.random.normal(keys[0], (1, 2))
broken = lambda: 1 / 0
'''


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A package of someone's with a linear network, and data for it as a file."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(3, 3, 1)).astype(np.float32)
    images = rng.integers(60, 196, (N, 3, 3, 1), np.uint8)
    score = np.einsum("nhwc,hwc->n", images / 255, w) - w.sum() / 2
    labels = ((score > 0) ^ (rng.uniform(size=N) < 0.1)).astype(np.int32)
    np.savez(tmp_path / "w.npz", w=w)
    np.savez(
        tmp_path / "data.npz",
        x_train=images[:2],
        y_train=np.array([0, 1]),
        x_test=images,
        y_test=labels,
    )
    (tmp_path / "broken_model.py").write_text("def f(:")
    (tmp_path / "their_model.py").write_text(THEIRS.format(path=tmp_path / "w.npz"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield np.where(labels == 1, score, -score), np.abs(w).sum()
    sys.modules.pop("their_model", None)


def run(tmp_path, *flags, model="their_model:logits"):
    return program.main(
        [
            f"--model={model}",
            f"--data=npz:{tmp_path / 'data.npz'}",
            f"--eps={EPS}",
            f"--workdir={tmp_path / 'run'}",
            *flags,
        ]
    )


@pytest.mark.full
def test_the_whole_program_agrees_with_the_closed_form(theirs, tmp_path, capsys):
    margin, slope = theirs
    about = ["--about=authors=A. Body", "--about=additional_data=true"]
    assert run(tmp_path, "--save_adversarial", "--batch_size=16", *about) == 0
    robust = margin > EPS * slope
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["clean"]["accuracy"] == pytest.approx((margin > 0).mean())
    assert results["worst_case"]["robust_accuracy"] == pytest.approx(robust.mean())
    curve = results["curve"]
    assert curve["eps_text"] == ["0", "0.025", "0.05", "0.1", "0.2", "0.4", "1"]
    want = [(margin > eps * slope).mean() for eps in curve["eps"][:-2]]
    assert curve["robust_accuracy"][:-2] == pytest.approx(want)
    with np.load(tmp_path / "run/evaluation.npz") as arrays:
        chex.assert_trees_all_equal(arrays["robust_pgd20"], robust)
    entry = json.loads((tmp_path / "run/robustbench.json").read_text())
    assert entry["clean_acc"] == f"{100 * (margin > 0).mean():.2f}"
    assert entry["authors"] == "A. Body"
    assert entry["additional_data"] is True
    assert "autoattack_acc" not in entry
    page = (tmp_path / "run/report.html").read_text()
    assert "their_model:logits" in page
    said = capsys.readouterr().out
    assert f"{100 * robust.mean():.1f} %" in said
    assert "report.html" in said


@pytest.mark.full
def test_images_of_another_range(theirs, tmp_path):
    """A radius is of [0, 1] images whatever range the function takes."""
    margin, slope = theirs
    flags = ("--bounds=-1,1", "--attacks_only", "--examples=30")
    assert run(tmp_path, *flags, model="their_model:wide") == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    with np.load(tmp_path / "run/evaluation.npz") as arrays:
        robust = (margin > EPS * slope)[arrays["indices"]]
        chex.assert_trees_all_equal(arrays["robust_pgd20"], robust)
    pgd = results["attacks"][-1]
    assert pgd["mean_perturbation"]["linf"] == pytest.approx(EPS, rel=1e-3)


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        ("their_model", (), "must be package.module:function"),
        ("nowhere_at_all:f", (), "module 'nowhere_at_all' cannot be imported"),
        ("their_model:logit", (), "has no 'logit'. Did you mean 'logits'"),
        ("their_model:number", (), "number is int, not a function"),
        ("their_model:flat", (), r"must return logits \[B, K\] with B = 3, got \(3,\)"),
        ("their_model:whole", (), "TypeError: .* floating logits, got int32"),
        ("their_model:three", (), "returns 3 classes, but the data set has 2"),
        ("their_model:in_numpy", (), "made of jax.numpy operations"),
        ("their_model:large", (), r"does not take images \(3, 3, 3, 1\): TypeError"),
        ("their_model:nan", (), "logits that are not finite"),
        ("their_model:batch", (), "depend on the other images of the batch"),
        ("their_model:drawn", (), "other logits when it is called again"),
        ("their_model:logits", ("--bounds=1,0",), "`bounds` must be two numbers"),
        ("their_model:logits", ("--bounds=1",), "`bounds` must be LOW,HIGH, got '1'"),
        ("their_model:logits", ("--eps=8/0",), "`eps` must be a number"),
        ("their_model:logits", ("--suite=pcl2019",), "has the paper's radii"),
        ("their_model:logits", ("--suite=gradiant",), "Did you mean 'gradient'"),
        ("their_model:logits", ("--about=venue",), "--about must be FIELD=VALUE"),
        ("their_model:logits", ("--data=npz:no.npz",), "is not there"),
        ("broken_model:f", (), "fails when it is imported: SyntaxError"),
        ("their_model:broken()", (), r"broken\(\) fails: ZeroDivisionError: division"),
        ("their_model:logits", ("--attack=pdg",), "Did you mean 'pgd'"),
        ("their_model:logits", ("--attack=pgd:step=1",), "Did you mean 'steps'"),
        ("their_model:logits", ("--attack=pgd", "--suite=gradient"), "not both"),
        ("their_model:noisy", ("--attack=pgd",), "does not take images"),
        ("their_model:logits", ("--stochastic",), "images .* and keys: TypeError"),
        ("their_model:one_key", ("--stochastic",), "depend on the other images"),
        (
            "their_model:noisy",
            ("--stochastic", "--suite=adaptive"),
            "--stochastic goes",
        ),
        (
            "their_model:noisy",
            ("--stochastic", "--draws=0"),
            "--draws must be at least",
        ),
        ("their_model:noisy", ("--stochastic", "--black_box"), "not both"),
        ("their_model:hosted", (), "or give --black_box, for bandits, boundary"),
        ("their_model:hosted", ("--attack=pgd",), "or give --black_box"),
        ("their_model:hosted", ("--black_box", "--attack=pgd"), "pgd cannot attack a"),
        (
            "their_model:hosted",
            ("--black_box", "--suite=autoattack"),
            "autoattack cannot",
        ),
        ("their_model:hosted_flat", ("--black_box",), r"logits \[B, K\] .* got \(3,\)"),
        ("their_model:hosted_nan", ("--black_box",), "logits that are not finite"),
        (
            "their_model:hosted_fails",
            ("--black_box",),
            "NHWC: OSError: no such service",
        ),
    ],
)
def test_mistakes_are_told_in_a_line(theirs, tmp_path, capsys, model, flags, message):
    assert run(tmp_path, *flags, model=model) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert re.search(message, error)
    assert not (tmp_path / "run" / "results.json").exists()


def judged(*, batch=0.0, drawn=0.0):
    """A linear network that may depend on its batch, or on when it is called."""
    w = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    rng = np.random.default_rng(1)

    def logits(x):
        z = x.reshape(len(x), 9) @ w
        z = z - batch * z.mean(0, keepdims=True)
        return z + drawn * rng.normal(size=(1, 4)).astype(np.float32)

    return logits


DRESSED = {
    "as it is": lambda z: z,
    "padded with -1e9": lambda z: jnp.pad(z, ((0, 0), (0, 1)), constant_values=-1e9),
    "padded with -inf": lambda z: jnp.pad(z, ((0, 0), (0, 1)), constant_values=-np.inf),
    "shifted by 1e6": lambda z: z + 1e6,
    "scaled by 1e-6": lambda z: z * 1e-6,
    "bfloat16": lambda z: z.astype(jnp.bfloat16),
}


@pytest.mark.parametrize("dress", DRESSED)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, None),
        ({"batch": 1.0}, "depend on the other images of the batch"),
        ({"drawn": 0.5}, "other logits when it is called again"),
    ],
)
def test_calls_are_compared_by_the_classes_that_decide(dress, fields, message):
    inner, change = judged(**fields), DRESSED[dress]
    images = np.random.default_rng(2).integers(0, 256, (4, 3, 3, 1), np.uint8)
    classes = change(jnp.zeros((1, 4))).shape[1]
    dataset = data.Dataset(images, np.zeros(4, np.int32), tuple("abcde"[:classes]))
    if message is None:
        external.wrap(lambda x: change(inner(x)), dataset)
        return
    with pytest.raises(ValueError, match=message):
        external.wrap(lambda x: change(inner(x)), dataset)


def results_of(tmp_path):
    return json.loads((tmp_path / "run/results.json").read_text())


def test_a_proof_has_the_radius_of_the_flags_where_no_attack_has_one(theirs, tmp_path):
    margin, slope = theirs
    flags = ["--attack=ddn:steps=2", "--certify", "--attacks_only"]
    assert run(tmp_path, *flags) == 0
    certified = results_of(tmp_path)["certified"]
    assert (certified["eps"], certified["norm"]) == (EPS, "linf")
    assert certified["proved"] == pytest.approx((margin > EPS * slope).mean())


@pytest.mark.full
def test_attacks_by_name_replace_the_suite(theirs, tmp_path):
    margin, slope = theirs
    attacks = ["--attack=pgd:steps=5,loss=margin", f"--attack=fgsm:eps={EPS / 2}"]
    assert run(tmp_path, *attacks, "--attacks_only") == 0
    fgsm, pgd = results_of(tmp_path)["attacks"]
    assert (pgd["label"], pgd["steps"], pgd["attack_loss"]) == ("pgd", 5, "margin")
    assert pgd["robust_accuracy"] == pytest.approx((margin > EPS * slope).mean())
    assert fgsm["robust_accuracy"] == pytest.approx((margin > EPS / 2 * slope).mean())


def test_a_wrong_flag_is_told_in_a_line(capsys):
    for flags in (["--modle=x"], ["--model=x"], ["--model=x", "--data=y", "--norm=l7"]):
        with pytest.raises(SystemExit) as ended:
            program.main(flags)
        assert ended.value.code == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_randomised_function(theirs, tmp_path, capsys):
    """Noise of .1 moves the score by a known deviation: right in half of the draws."""
    margin, slope = theirs
    flags = ("--stochastic", "--draws=200", "--attack=fgsm", "--attacks_only")
    assert run(tmp_path, *flags, model="their_model:noisy") == 0
    found = results_of(tmp_path)
    assert found["randomised"] == {"draws": 200, "right_in": 0.5}
    [fgsm] = found["attacks"]
    assert (fgsm["stochastic"], fgsm["eot_samples"]) == (True, 200)
    assert fgsm["robust_accuracy"] == pytest.approx(
        (margin > EPS * slope).mean(), abs=0.1
    )
    assert 0 < fgsm["expected_accuracy"] < 1
    said = " ".join(capsys.readouterr().out.split())
    assert "at least half of 200 fresh draws" in said


@pytest.mark.parametrize(
    ("model", "flags"),
    [
        pytest.param("hosted", ("--black_box",), marks=pytest.mark.full),
        ("hosted", ("--attack=square:queries=40", "--attack=ball:draws=3")),
        ("hosted_in_place", ("--black_box", "--attack=square:queries=40")),
        ("hosted_first", ("--layout=NCHW", "--attack=square:queries=40")),
    ],
)
def test_a_function_of_numpy_is_a_black_box(theirs, tmp_path, model, flags):
    """Square finds corners of the ball, which is where a linear network is weakest."""
    margin, slope = theirs
    if "--black_box" in flags:
        flags = (*flags, "--examples=8")
    assert run(tmp_path, *flags, model=f"their_model:{model}") == 0
    names = {attack["name"] for attack in results_of(tmp_path)["attacks"]}
    assert "square" in names
    assert not names - {"square", "ball", "uniform_noise"}
    with np.load(tmp_path / "run/evaluation.npz") as arrays:
        robust = (margin > EPS * slope)[arrays["indices"]]
        assert (arrays["robust_square"] >= robust).all()
        assert arrays["robust_square"].mean() < (margin > 0)[arrays["indices"]].mean()


def test_votes_are_told_of_a_black_box_too(theirs, tmp_path):
    flags = ("--attack=square:queries=5", "--examples=8", "--black_box")
    assert run(tmp_path, *flags, model="their_model:hosted_votes") == 0
    found = {flag["name"]: flag["severe"] for flag in results_of(tmp_path)["flags"]}
    assert found["probabilities_as_logits"]


def test_a_black_box_that_ends_the_program_fails_in_a_line():
    def leave(x):
        raise SystemExit(3)

    with pytest.raises(ValueError, match=r"it ends the program \(SystemExit: 3\)"):
        black_box.wrap(leave, toy(), None)
    with pytest.raises(RuntimeError, match="it ends the program"):
        black_box.host_function(leave)(np.zeros((1, 4, 4, 1), np.float32))


def test_a_torch_module_is_a_black_box(tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    images = np.random.default_rng(0).uniform(size=(5, 4, 4, 1)).astype(np.float32)
    want = net(torch.tensor(images.transpose(0, 3, 1, 2))).detach().numpy()
    for function, layout in ((net, None), (lambda x: net(x), "NCHW")):
        hosted = black_box.wrap(function, toy(), layout)
        chex.assert_trees_all_close(hosted(jnp.asarray(images)), want, rtol=1e-5)
        stacked = jax.vmap(hosted)(jnp.asarray(images)[None])
        chex.assert_trees_all_close(stacked[0], want, rtol=1e-5)


def test_images_outside_the_bounds_are_refused(theirs, tmp_path, capsys):
    images = np.linspace(-1, 1, 90, dtype=np.float32).reshape(10, 3, 3, 1)
    labels = np.arange(10) % 2
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    assert run(tmp_path) == 1
    assert "must be finite and in [0, 1], got -1 to 1;" in capsys.readouterr().err


def test_factories_and_methods(theirs):
    x = jnp.linspace(0, 1, 18).reshape(2, 3, 3, 1)
    want = external.load("their_model:logits")(x)
    for spec in ("their_model:build()", "their_model:net.logits"):
        chex.assert_trees_all_close(external.load(spec)(x), want, rtol=1e-6)
    with pytest.raises(TypeError, match=r"number is int, not a function"):
        external.load("their_model:number()")


def toy(classes=2):
    labels = (np.arange(6) % classes).astype(np.int32)
    images = np.random.default_rng(1).integers(0, 256, (6, 4, 4, 1), np.uint8)
    return data.Dataset(images, labels, tuple("abcdef"[:classes]))


def test_weights_are_arguments_of_the_compiled_step():
    """Also those inside an inner jit; what depends on the batch size stays."""
    w, b = jnp.ones((16, 2)), np.array([0.5, -0.5], np.float32)

    @jax.jit
    def logits(x):
        scale = np.linspace(1, 2, len(x), dtype=np.float32)[:, None]
        return (x.reshape(len(x), -1) @ w + b[None]) / scale * scale

    network, variables = external.wrap(logits, toy())
    assert sorted(np.size(a) for a in jax.tree.leaves(variables))[-1] == 32
    run_step = step.make_eval_step(network)
    images, labels = toy().images, toy().labels
    keys = jax.random.split(jax.random.key(0), 6)
    for size in (6, 1):
        batch = (images[:size], labels[:size], keys[:size])
        got = run_step(variables, *batch)["logits"]
        x = jnp.asarray(images[:size], jnp.float32) / 255
        chex.assert_trees_all_close(got, logits(x), rtol=1e-5)
        doubled = jax.tree.map(lambda a: 2 * a, variables)
        twice = run_step(doubled, *batch)["logits"]
        chex.assert_trees_all_close(twice, 2 * got, rtol=1e-5)


def test_a_network_of_ours_is_a_function_too():
    model = models.create("resnet_cifar", depth=8, width=2, num_classes=2)
    x = jnp.asarray(toy().images, jnp.float32) / 255
    variables = jax.jit(model.init)(jax.random.key(0), x)
    function = models.logits_fn(model, variables)
    network, held = external.wrap(function, toy())
    got, want = (jax.jit(f)(x) for f in (models.logits_fn(network, held), function))
    chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-5)


def test_the_example_in_numpy(tmp_path):
    flags = ["--model=examples.numpy_model:build()", "--data=digits", "--black_box"]
    flags += ["--attack=square:queries=20", "--eps=0.1", "--examples=40"]
    assert program.main([*flags, f"--workdir={tmp_path}"]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    robust = found["worst_case"]["robust_accuracy"]
    assert robust < found["clean"]["accuracy"] > 0.8


@pytest.mark.parametrize(
    "name",
    full_but(
        ["plain_model", "linen_model", "nnx_model", "equinox_model", "haiku_model"],
        ["equinox_model", "haiku_model"],
    ),
)
def test_examples(name, tmp_path, monkeypatch):
    """Each learns the digits a little and goes through the program."""
    if name.startswith(("equinox", "haiku")):
        pytest.importorskip(name.partition("_")[0])
    module = importlib.import_module(f"examples.{name}")
    build = module.build
    monkeypatch.setattr(module, "build", lambda: build(steps=20))
    status = program.main(
        [
            f"--model=examples.{name}:build()",
            "--data=digits",
            "--eps=0.05",
            "--examples=40",
            "--attacks_only",
            f"--workdir={tmp_path}",
        ]
    )
    assert status == 0
    results = json.loads((tmp_path / "results.json").read_text())
    clean, robust = results["clean"]["accuracy"], results["worst_case"]
    assert clean > 0.5
    assert robust["robust_accuracy"] < clean
    assert f"examples.{name}:build()" in module.__doc__
