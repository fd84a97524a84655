"""A made-up run to report: the files that training and evaluation leave."""

import json

import numpy as np
import pytest

CLASSES = 10
EPS = ("0", "2/255", "8/255", "1")


def attack(label, name, share, **more):
    return {
        "label": label,
        "name": name,
        "norm": "linf",
        "eps": 8 / 255,
        "eps_text": "8/255",
        "robust_accuracy": share,
        "ci95": [share - 0.02, share + 0.02],
        "n": 2000,
        "seconds": 12.5,
        "mean_perturbation": {"linf": 0.031, "l2": 1.2, "l1": 70.0},
        **more,
    }


def _make_results(robust, classes=CLASSES):
    return {
        "clean": {"accuracy": 0.95, "ci95": [0.94, 0.96], "n": 2000, "seconds": 1.0},
        "attacks": [
            attack("fgsm", "fgsm", robust + 0.05),
            attack("pgd20", "pgd", robust, steps=20),
        ],
        "worst_case": {
            "robust_accuracy": robust,
            "ci95": [robust - 0.02, robust + 0.02],
            "n": 2000,
            "attacks": ["fgsm", "pgd20"],
        },
        "per_class": [
            {"class": f"c{k}", "n": 200, "accuracy": 0.9, "robust_accuracy": 0.5}
            for k in range(classes)
        ],
        "curve": {
            "norm": "linf",
            "eps": [0, 2 / 255, 8 / 255, 1],
            "eps_text": list(EPS),
            "robust_accuracy": [0.95, 0.8, robust, 0.0],
            "ci95": [
                [0.9, 0.97],
                [0.78, 0.82],
                [robust - 0.1, robust + 0.1],
                [0, 0.01],
            ],
            "n": 500,
            "steps": 20,
        },
        "growth": {
            "stages": ["stage1", "stage2", "stage3"],
            "l1": [1.2, 1.4, 0.9],
            "l2": [1.1, 1.3, 0.8],
            "n": 500,
        },
        "flags": [],
        "diagnostics": {
            "n": 100,
            "steps": 10,
            "restarts": 1,
            "queries": 50,
            "logits": {"no_loss_share": 0.01},
            "calls": {"same_batch": 0.0, "other_batch": 0.0},
            "gradients": {"zero_gradient_share": 0.0, "loss_rises_share": None},
            "accuracy": dict.fromkeys(
                (
                    "clean",
                    "noise",
                    "square",
                    "single_step",
                    "iterative",
                    "more_steps",
                    "more_restarts",
                    "rescaled",
                    "covering",
                ),
                0.5,
            ),
        },
        "environment": {"jax": "0.10.2", "device": "cpu", "commit": None},
    }


def _write_run(
    folder, results, *, name="run", objective="pgd", metrics=True, images=True
):
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "name": name,
        "model": {"name": "ssp_cifar"},
        "data": {"name": "cifar10"},
        "objective": {"name": objective},
    }
    text = json.dumps({"config": config, "command": "python -m jaxrobust.main --x=<y>"})
    (folder / "config.json").write_text(text)
    if metrics:
        rows = [
            {"step": s, "epoch": s / 50, "loss": 2 / (1 + s), "learning_rate": 0.1}
            for s in range(0, 500, 10)
        ]
        rows += [
            {
                "step": s,
                "epoch": s / 50,
                "validation/accuracy": s / 1000,
                "validation/robust_accuracy": s / 2000,
            }
            for s in range(0, 500, 50)
        ]
        lines = [json.dumps(row) for row in rows]
        (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 51']))
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results))
    if images and results is not None:
        rng = np.random.default_rng(0)
        clean = rng.integers(0, 256, (8, 16, 16, 3), np.uint8)
        noise = rng.uniform(-8 / 255, 8 / 255, clean.shape)
        np.savez(
            folder / "evaluation.npz",
            class_names=np.asarray([f"c{k}" for k in range(CLASSES)]),
            grid_attack=np.asarray("pgd20"),
            grid_images=clean,
            grid_x_adv=np.clip(clean / 255 + noise, 0, 1).astype(np.float32),
            grid_labels=np.arange(8),
            grid_predicted=np.arange(8),
            grid_predicted_adv=np.arange(8)[::-1],
        )


IMAGES = 40


def _make_analyses():
    """What the analyses say: NaN became null on the way through JSON."""
    sweep = {
        "newly_successful": [8, 0, 21],
        "share": [[0.5, 0.25, 0.125, 0.0], [None] * 4, [1.0, 0.0, 0.0, 0.0]],
    }
    gap = {"all": 0.527, "correct": 0.61}
    distances = {"own": 3.0, "other": 5.0, "nearest_is_own": 0.9}
    mse = {"attacked": 1e-3, "restored_clean": 2e-3, "restored_attacked": 3e-3}
    return {
        "class_ranks": {
            "eps": [0.01, 0.02, 0.03],
            "eps_text": ["0.01", "0.02", "0.03"],
            "ranks": [2, 3, 4, 5],
            "attacks": [{"name": "fgsm", **sweep}, {"name": "mim", **sweep}],
            "n": 40,
            "n_correct": 38,
        },
        "probability_gap": {
            "clean": gap,
            "attacks": [{"label": "pgd20", "all": -0.25, "correct": None}],
            "n": 2000,
            "n_correct": 1900,
        },
        "features": {"attack": "pgd20", "n": IMAGES, "width": 5},
        "prototypes": {
            "attack": "pgd20",
            "n": IMAGES,
            "layers": {"pooled": {"clean": distances, "attacked": distances}},
        },
        "restoration": {"attack": "pgd20", "n": IMAGES, "mse": mse},
    }


def _make_arrays():
    rng = np.random.default_rng(1)
    labels = np.arange(IMAGES) % CLASSES
    features = rng.normal(size=(IMAGES, 2, 5)) + 9 * labels[:, None, None]
    images = rng.integers(0, 256, (3, 16, 16, 3), np.uint8)
    return {
        "features": features.astype(np.float32),
        "features_labels": labels,
        "distances/pooled": rng.gamma(3.0, size=(IMAGES, 2, 2)).astype(np.float32),
        "restored": rng.uniform(size=(3, 2, 16, 16, 3)).astype(np.float32),
        "restored_images": images,
        "restored_x_adv": (images / 255).astype(np.float32),
        "restored_labels": np.arange(3),
    }


STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")


def _make_autoattack(left=(0.5, 0.4, 0.4, 0.4), **more):
    """AutoAttack's entry, with the accuracy after each of its attacks."""
    stages = [
        {
            "name": name,
            "robust_accuracy": share,
            "seconds": 1.25 * (place + 1),
            "gradients": 0 if name == "square" else 1000 * (place + 1),
            "forwards": 50_000 if name == "square" else 0,
        }
        for place, (name, share) in enumerate(zip(STAGES, left, strict=True))
    ]
    found = attack("autoattack", "autoattack", left[-1], version="standard")
    return found | {"stages": stages, "replaced": []} | more


@pytest.fixture
def make_autoattack():
    """What results.json says of AutoAttack."""
    return _make_autoattack


@pytest.fixture
def make_analyses():
    """What results.json says of the analyses."""
    return _make_analyses


@pytest.fixture
def add_analyses():
    """Adds to a work directory what the analyses leave there."""
    return _add_analyses


def _add_analyses(folder, **changes):
    file = folder / "results.json"
    results = json.loads(file.read_text()) | {"analyses": _make_analyses()} | changes
    file.write_text(json.dumps(results))
    path = folder / "evaluation.npz"
    with np.load(path) as arrays:
        held = dict(arrays)
    np.savez(path, **held, **_make_arrays())


@pytest.fixture
def make_results():
    """Results of an evaluation with a given robust accuracy."""
    return _make_results


@pytest.fixture
def write_run():
    """Writes a work directory."""
    return _write_run


@pytest.fixture
def full_run(tmp_path):
    """A work directory with everything in it, and an awkward name."""
    name = "<script>alert(1)</script> & more"
    _write_run(tmp_path, _make_results(0.45), name=name)
    _write_run(tmp_path / "twin", _make_results(0.05), name="twin", images=False)
    _add_analyses(tmp_path)
    return tmp_path
