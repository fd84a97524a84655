"""Checkpoints: what is kept, what is loaded, what a damaged one does."""

import functools
import os
import resource
import shutil
import signal
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxrobust import checkpoints, models, named_models
from jaxrobust.parallel import checksums

CONFIG = {"model": {"name": "ssp_cifar", "blocks": 1, "width": 4, "mean": [0.5]}}


@functools.cache
def shapes():
    model = named_models.create_model(CONFIG)
    x = jnp.zeros((1, 8, 8, 1))
    return jax.eval_shape(lambda k: model.init(k, x, train=False), jax.random.key(0))


def variables_of(value):
    return jax.tree.map(lambda v: jnp.full(v.shape, value, v.dtype), shapes())


def save_all(folder, accuracies):
    """Saves one checkpoint per (clean, robust) pair; None for an unmeasured one."""
    checkpointer = checkpoints.Checkpointer(folder)
    for step, pair in enumerate(accuracies, 1):
        metrics = pair and dict(zip(("accuracy", "robust_accuracy"), pair, strict=True))
        state = {"x": jnp.full(3, float(step))}
        checkpointer.save(step, state, variables_of(float(step)), CONFIG, metrics)
    return checkpointer


def loaded_step(folder, which):
    """Loads a checkpoint of `save_all`, whole, and says of which step it is."""
    _, variables, config = checkpoints.load(folder, which)
    assert config == CONFIG
    step = float(jax.tree.leaves(variables)[0].ravel()[0])
    chex.assert_trees_all_equal(variables, variables_of(step), strict=True)
    return step


def test_best_clean_best_robust_and_last_are_kept(tmp_path):
    pairs = [(0.5, 0.4), (0.9, 0.1), None, (0.8, 0.3), None, None]
    save_all(tmp_path, pairs).close()
    assert loaded_step(tmp_path, "best_robust") == 1
    assert loaded_step(tmp_path, "best_clean") == 2
    assert loaded_step(tmp_path, "last") == 6
    assert loaded_step(tmp_path, None) == 1
    assert len(list((tmp_path / "checkpoints").glob("[0-9]*"))) == 4


def test_a_plain_network_is_loaded_by_its_clean_accuracy(tmp_path):
    """Its robust accuracy is near 0, where the best one is a matter of chance."""
    assert checkpoints.evaluated({"objective": {"name": "standard"}}) == "best_clean"
    assert checkpoints.evaluated({"objective": {"name": "pgd"}}) == "best_robust"
    plain = {**CONFIG, "objective": {"name": "standard"}}
    checkpointer = checkpoints.Checkpointer(tmp_path)
    for step, (clean, robust) in enumerate([(0.3, 0.1), (0.9, 0.0)], 1):
        found = {"accuracy": clean, "robust_accuracy": robust}
        state = {"x": jnp.full(3, float(step))}
        checkpointer.save(step, state, variables_of(float(step)), plain, found)
    checkpointer.close()
    _, variables, _ = checkpoints.load(tmp_path)
    chex.assert_trees_all_equal(variables, variables_of(2.0))


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
    chex.assert_trees_all_equal(state, {"x": jnp.ones(3)}, strict=True)
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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_file_cut_short_never_gives_wrong_values(tmp_path):
    """Whichever it is: the checkpoint before, or this one from the rest of it."""
    save_all(tmp_path / "good", [None, None]).close()
    newest = tmp_path / "good" / "checkpoints" / "2"
    files = [f.relative_to(newest) for f in newest.rglob("*") if f.is_file()]
    fallen = []
    for number, file in enumerate(f for f in files if f.name != "commit_success.txt"):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "good", folder)
        damaged = folder / "checkpoints" / "2" / file
        content = damaged.read_bytes()
        damaged.write_bytes(content[: len(content) // 2])
        loaded = loaded_step(folder, "last")
        checkpointer = checkpoints.Checkpointer(folder)
        state = checkpointer.restore({"x": jnp.zeros(3)})
        checkpointer.close()
        assert loaded in (1, 2)
        assert set(np.asarray(state["x"]).tolist()) in ({1.0}, {2.0})
        fallen.append((file.parts[0], loaded, float(state["x"][0])))
    assert ("state", 2, 1.0) in fallen
    assert ("variables", 1, 2.0) in fallen


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_flipped_bit_never_gives_other_weights(tmp_path, caplog):
    """Compressed arrays have no checksum of their own: the bit became other numbers."""
    rng = np.random.default_rng(0)
    noise = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(s.dtype), shapes())
    good = tmp_path / "good"
    checkpointer = checkpoints.Checkpointer(good)
    for step in (1, 2):
        checkpointer.save(step, {"x": noise}, noise, CONFIG)
    checkpointer.close()
    for number, part in enumerate(("state", "variables", "config", "variables")):
        folder = tmp_path / str(number)
        shutil.copytree(good, folder)
        files = (folder / "checkpoints" / "2" / part).rglob("*")
        largest = max((f for f in files if f.is_file()), key=lambda f: f.stat().st_size)
        content = bytearray(largest.read_bytes())
        content[len(content) // (2 + number)] ^= 1
        largest.write_bytes(content)
        _, found, config = checkpoints.load(folder, "last")
        assert config == CONFIG
        chex.assert_trees_all_equal(found, noise, strict=True)
        checkpointer = checkpoints.Checkpointer(folder)
        chex.assert_trees_all_equal(checkpointer.restore({"x": noise})["x"], noise)
        checkpointer.close()
    assert "is not what was written" in caplog.text


def test_weights_that_were_written_wrong_are_told_at_once(tmp_path):
    save_all(tmp_path, [None]).close()
    checkpoints.verify(tmp_path)
    sums = tmp_path / "checkpoints" / "1" / "sums" / "metadata"
    text = sums.read_text()
    sums.write_text(text.replace('"variables": {"', '"variables": {"another'))
    with pytest.raises(OSError, match="was written and cannot be read again"):
        checkpoints.verify(tmp_path)


def test_a_checkpoint_of_an_older_version_has_no_checksums(tmp_path):
    save_all(tmp_path, [None]).close()
    shutil.rmtree(tmp_path / "checkpoints" / "1" / "sums")
    assert loaded_step(tmp_path, "last") == 1


@pytest.mark.parametrize("dtype", ["bool", "int8", "bfloat16", "float32", "float64"])
def test_any_changed_number_changes_its_checksum(dtype):
    array = np.random.default_rng(0).integers(0, 2, (3, 4)).astype(jnp.dtype(dtype))
    same = checksums.of_tree({"a": array, "b": array[0, 0]})
    assert checksums.of_tree({"a": array.copy(), "b": array[0, 0]}) == same
    for place in np.ndindex(array.shape):
        other = array.copy()
        other[place] = 1 - other[place]
        assert checksums.of_tree({"a": other, "b": array[0, 0]})["a"] != same["a"]


def test_a_step_that_reuses_what_is_being_saved_changes_nothing(tmp_path):
    """The saved state is donated to the next steps while it is being written."""
    step = jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)
    state = step({name: jnp.zeros(1_000_000) for name in "abcd"})
    checkpointer = checkpoints.Checkpointer(tmp_path)
    checkpointer.save(1, state, variables_of(1.0), CONFIG)
    for _ in range(20):
        state = step(state)
    jax.block_until_ready(state)
    found = checkpointer.restore(state)
    checkpointer.close()
    chex.assert_trees_all_equal(found, jax.tree.map(jnp.ones_like, state), strict=True)


def test_a_kill_during_a_save_leaves_the_checkpoint_before(tmp_path):
    code = (
        "import os, signal, sys, jax.numpy as jnp, numpy as np\n"
        "from jaxrobust import checkpoints\n"
        "c = checkpoints.Checkpointer(sys.argv[1])\n"
        "data = np.random.default_rng(0).random(8_000_000, np.float32) / 2\n"
        "for step in (1, 2):\n"
        "    c.save(step, {'x': jnp.asarray(data) + step}, {'a': jnp.zeros(2)}, {})\n"
        "    step == 1 and c.wait()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    child = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(child, check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    folder = tmp_path / "checkpoints"
    assert len(list(folder.iterdir())) == 2  # the second is not complete
    checkpointer = checkpoints.Checkpointer(tmp_path)
    state = checkpointer.restore({"x": jnp.zeros(8_000_000)})
    assert 1 <= float(state["x"].min()) <= float(state["x"].max()) < 1.6
    checkpointer.save(2, {"x": jnp.zeros(3)}, {"a": jnp.zeros(2)}, {})
    checkpointer.close()
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("at", ["save", "close"])
def test_a_background_save_that_fails_is_told_at_the_next_call(at, tmp_path):
    """Files may not grow beyond a size, as on a full disk; 1 MB of state does."""
    save_all(tmp_path, [None]).close()
    state = {"x": jnp.asarray(np.random.default_rng(0).random(250_000, np.float32))}
    checkpointer = checkpoints.Checkpointer(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    call = {
        "save": lambda: checkpointer.save(8, {"x": jnp.zeros(3)}, {}, CONFIG),
        "close": checkpointer.close,
    }
    try:
        checkpointer.save(7, state, variables_of(7.0), CONFIG)
        with pytest.raises(OSError, match=r"checkpoint 7 could not .*File too large"):
            call[at]()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert loaded_step(tmp_path, "last") == 1


def test_the_layout_of_the_run_is_kept(tmp_path):
    checkpointer = save_all(tmp_path, [None])
    layout = {"processes": 2, "devices": 4}
    checkpointer.save(2, {"x": jnp.zeros(3)}, variables_of(0.0), CONFIG, layout=layout)
    checkpointer.wait()
    assert checkpointer.part(2, "layout") == layout
    shutil.rmtree(tmp_path / "checkpoints" / "2" / "layout")  # as before it was kept
    assert checkpointer.part(2, "layout") == {}
    chex.assert_trees_all_equal(
        checkpointer.restore({"x": jnp.ones(3)}), {"x": jnp.zeros(3)}
    )
    checkpointer.close()


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
    with pytest.raises(ValueError, match=r"`which` .*'best'. Did you mean 'best_"):
        checkpoints.load("x", "best")


def test_converted_weights_load(tmp_path):
    folder = checkpoints.save_variables(tmp_path, variables_of(2.0), CONFIG)
    assert folder.is_dir()
    model, variables, _ = checkpoints.load(tmp_path)
    logits = models.logits_fn(model, variables)(jnp.zeros((2, 8, 8, 1)))
    chex.assert_shape(logits, (2, 10))
    chex.assert_trees_all_equal(variables, variables_of(2.0), strict=True)


@pytest.mark.parametrize("content", ["", '{"accuracy": 0.'])
def test_metrics_cut_short_do_not_block_the_restart(tmp_path, content):
    save_all(tmp_path, [(0.5, 0.4), (0.6, 0.5)]).close()
    (tmp_path / "checkpoints" / "2" / "metrics" / "metrics").write_text(content)
    assert loaded_step(tmp_path, "best_robust") == 1
    state = checkpoints.Checkpointer(tmp_path).restore({"x": jnp.zeros(3)})
    chex.assert_trees_all_equal(state, {"x": jnp.full(3, 2.0)})
    assert loaded_step(tmp_path, "best_robust") == 1


def test_metrics_cut_short_do_not_cost_the_only_checkpoint(tmp_path):
    save_all(tmp_path, [(0.5, 0.4)]).close()
    (tmp_path / "checkpoints" / "1" / "metrics" / "metrics").write_text("{")
    state = checkpoints.Checkpointer(tmp_path).restore({"x": jnp.zeros(3)})
    chex.assert_trees_all_equal(state, {"x": jnp.ones(3)})


def build(width):
    """A user's own builder; knows nothing of `blocks`."""
    return models.create("ssp_cifar", blocks=1, width=width)


def test_a_users_own_model():
    fields = {"name": f"{__name__}:build", "width": 4, "blocks": 6}
    sys.modules.setdefault(__name__, sys.modules[build.__module__])
    assert named_models.create_model({"model": fields}).width == 4
    with pytest.raises(ValueError, match="module 'nowhere' cannot be imported"):
        named_models.create_model({"model": {"name": "nowhere:build"}})


@pytest.mark.parametrize("cast", [np.float64, ">f4", "python"])
def test_what_is_saved_can_be_loaded(cast, tmp_path):
    """NumPy's own float64, another byte order, plain numbers: all as JAX has them."""

    def given(value):
        array = np.full(value.shape, 0.5, np.float32)
        if cast != "python":
            return array.astype(cast)
        return array.item() if not array.ndim else array

    variables = jax.tree.map(given, shapes())
    checkpoints.save_variables(tmp_path, variables, {**CONFIG, "seed": np.int64(3)})
    _, found, config = checkpoints.load(tmp_path, "last")
    chex.assert_trees_all_equal(found, variables_of(0.5), strict=True)
    assert config["seed"] == 3


@pytest.mark.parametrize(
    ("dtype", "config", "message"),
    [
        (np.int8, {}, r"params/\S+ is int8, and parameters are floating"),
        (np.complex64, {}, r"params/\S+ is complex64"),
        (np.float32, {"seed": float("inf")}, "`config` cannot be kept as JSON"),
        (np.float32, {"name": "\ud800"}, "`config` cannot be kept as JSON"),
        ("U3", {}, "must be an array of numbers"),
        (np.float32, {"seed": {1, 2}}, r"cannot be kept as JSON: \{1, 2\} is set"),
    ],
)
def test_what_cannot_be_kept_is_refused(dtype, config, message, tmp_path):
    variables = jax.tree.map(lambda v: np.ones(v.shape).astype(dtype), shapes())
    with pytest.raises(ValueError, match=message):
        checkpoints.save_variables(tmp_path / "run", variables, {**CONFIG, **config})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.int64(2**40 + 7), "int64, and 1 of its numbers"),
        (np.float64(1e300), "float"),
    ],
)
def test_numbers_that_would_change_are_refused(value, told, tmp_path):
    variables = {**variables_of(1.0), "opt": {"step": np.asarray(value)}}
    with pytest.raises(ValueError, match=f"opt/step is {told}"):
        checkpoints.save_variables(tmp_path / "run", variables, CONFIG)


def test_tables_of_ml_collections_are_kept_whole(tmp_path):
    config = {**CONFIG, "attack": ConfigDict({"eps": "0.1"})}
    checkpoints.save_variables(tmp_path, variables_of(1.0), config)
    assert checkpoints.load(tmp_path)[2]["attack"] == {"eps": "0.1"}


def test_float64_needs_float64(tmp_path):
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda v: jnp.ones(v.shape, jnp.float64), shapes())
        checkpoints.save_variables(tmp_path, wide, CONFIG)
        chex.assert_trees_all_equal(checkpoints.load(tmp_path)[1], wide, strict=True)
    with pytest.raises(ValueError, match="holds float64, which JAX has under JAX_ENAB"):
        checkpoints.load(tmp_path)
