"""Checkpoints: what is kept, what is loaded, what a damaged one does."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import checkpoints, models

CONFIG = {"model": {"name": "ssp_cifar", "blocks": 1, "width": 4, "mean": [0.5]}}


def variables_of(value):
    model = checkpoints.create_model(CONFIG)
    tree = jax.eval_shape(
        lambda k: model.init(k, jnp.zeros((1, 8, 8, 1)), train=False), jax.random.key(0)
    )
    return jax.tree.map(lambda v: jnp.full(v.shape, value, v.dtype), tree)


def save_all(folder, accuracies):
    """Saves one checkpoint per (clean, robust) pair; None for an unmeasured one."""
    checkpointer = checkpoints.Checkpointer(folder)
    for step, pair in enumerate(accuracies, 1):
        metrics = pair and dict(zip(("accuracy", "robust_accuracy"), pair, strict=True))
        state = {"x": jnp.full(3, float(step))}
        checkpointer.save(step, state, variables_of(float(step)), CONFIG, metrics)
    return checkpointer


def loaded_step(folder, which):
    _, variables, config = checkpoints.load(folder, which)
    assert config == CONFIG
    return float(jax.tree.leaves(variables)[0].ravel()[0])


def test_best_clean_best_robust_and_last_are_kept(tmp_path):
    pairs = [(0.5, 0.4), (0.9, 0.1), None, (0.8, 0.3), None, None]
    save_all(tmp_path, pairs).close()
    assert loaded_step(tmp_path, "best_robust") == 1
    assert loaded_step(tmp_path, "best_clean") == 2
    assert loaded_step(tmp_path, "last") == 6
    assert len(list((tmp_path / "checkpoints").glob("[0-9]*"))) == 4


def test_the_choice_survives_a_restart(tmp_path):
    save_all(tmp_path, [(0.5, 0.4)]).close()
    checkpointer = checkpoints.Checkpointer(tmp_path)
    for step in (2, 3, 4):
        checkpointer.save(step, {"x": jnp.zeros(3)}, variables_of(0.0), CONFIG)
    checkpointer.close()
    assert loaded_step(tmp_path, "best_robust") == 1


def test_one_checkpoint_folder_loads_alone(tmp_path):
    save_all(tmp_path, [(0.5, 0.4)]).close()
    assert loaded_step(tmp_path / "checkpoints" / "1", "last") == 1


def truncate(folder):
    files = [f for f in folder.glob("**/d/*") if f.stat().st_size > 10]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:10])


# Orbax leaves tasks behind that failed to read; their complaint is not ours to raise.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_truncated_checkpoint_falls_back_with_a_warning(tmp_path, caplog):
    save_all(tmp_path, [None, None]).close()
    truncate(tmp_path / "checkpoints" / "2")
    assert loaded_step(tmp_path, "last") == 1
    checkpointer = checkpoints.Checkpointer(tmp_path)
    with caplog.at_level("WARNING"):
        state = checkpointer.restore({"x": jnp.zeros(3)})
    np.testing.assert_array_equal(state["x"], 1.0)
    assert "checkpoint 2 cannot be read" in caplog.text
    # The same step can be saved again.
    checkpointer.save(2, {"x": jnp.ones(3)}, variables_of(9.0), CONFIG)
    checkpointer.close()
    assert loaded_step(tmp_path, "last") == 9


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_when_none_can_be_read_nothing_is_deleted(tmp_path):
    save_all(tmp_path, [None]).close()
    truncate(tmp_path / "checkpoints" / "1")
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read"):
        checkpoints.Checkpointer(tmp_path).restore({"x": jnp.zeros(3)})
    assert (tmp_path / "checkpoints" / "1").is_dir()


def test_another_architecture_is_refused_not_deleted(tmp_path):
    checkpointer = save_all(tmp_path, [None])
    for other in ({"x": jnp.zeros(4)}, {"y": jnp.zeros(3)}):
        with pytest.raises(ValueError, match="holds another architecture"):
            checkpointer.restore(other)
    assert (tmp_path / "checkpoints" / "1").is_dir()


def test_nothing_to_restore(tmp_path):
    assert checkpoints.Checkpointer(tmp_path).restore({"x": jnp.zeros(3)}) is None
    with pytest.raises(FileNotFoundError, match="no readable checkpoint in"):
        checkpoints.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoints in"):
        checkpoints.load(tmp_path / "elsewhere")


def test_unknown_choice():
    with pytest.raises(ValueError, match=r"`which` must be one of .*'best'"):
        checkpoints.load("x", "best")


def test_converted_weights_load(tmp_path):
    folder = checkpoints.save_variables(tmp_path, variables_of(2.0), CONFIG)
    assert folder.is_dir()
    model, variables, _ = checkpoints.load(tmp_path)
    logits = models.logits_fn(model, variables)(jnp.zeros((2, 8, 8, 1)))
    assert logits.shape == (2, 10)


@pytest.mark.parametrize("content", ["", '{"accuracy": 0.'])
def test_metrics_cut_short_do_not_block_the_restart(tmp_path, content):
    save_all(tmp_path, [(0.5, 0.4), (0.6, 0.5)]).close()
    (tmp_path / "checkpoints" / "2" / "metrics" / "metrics").write_text(content)
    assert loaded_step(tmp_path, "best_robust") == 1
    state = checkpoints.Checkpointer(tmp_path).restore({"x": jnp.zeros(3)})
    np.testing.assert_array_equal(state["x"], 1.0)


def build(width):
    """A user's own builder; knows nothing of `blocks`."""
    return models.create("ssp_cifar", blocks=1, width=width)


def test_a_users_own_model():
    fields = {"name": f"{__name__}:build", "width": 4, "blocks": 6}
    sys.modules.setdefault(__name__, sys.modules[build.__module__])
    assert checkpoints.create_model({"model": fields}).width == 4
    with pytest.raises(ValueError, match="model 'nowhere:build' cannot be imported"):
        checkpoints.create_model({"model": {"name": "nowhere:build"}})
