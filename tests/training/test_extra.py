"""Extra images: a share of every batch, checked as any file of a user's is."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import data, parallel
from jaxrobust.training import check, config, extra, feed, setup, splits

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 8, 8, 1), np.uint8)
LABELS = np.arange(20) % 10


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=30)


def saved(folder, **arrays):
    found = {"image": IMAGES, "label": LABELS} | arrays
    np.savez(folder / "a.npz", **{k: v for k, v in found.items() if v is not None})
    return folder / "a.npz"


@pytest.mark.parametrize("kind", [feed.ResidentFeed, feed.StreamFeed])
def test_a_batch_has_extra_images_with_their_own_labels(kind, digits, tmp_path):
    more = data.load_extra(saved(tmp_path), digits)
    joined = data.Joined(digits, more)
    blend = feed.Blend(len(more), 6)
    given = {"batch_size": 8, "seed": 1, "blend": blend}
    found = kind(joined, parallel.make_mesh(4), **given)
    seen = []
    for batch in found.batches(0, 15):
        index = np.asarray(batch["index"])
        own, more = index[index < 30], index[index >= 30] - 30
        assert (len(own), len(more)) == (2, 6)
        images = np.concatenate([digits.images, IMAGES])[index]
        labels = np.concatenate([digits.labels, LABELS])[index]
        chex.assert_trees_all_equal(batch["image"], images)
        chex.assert_trees_all_equal(batch["label"], labels)
        seen.append((own, more))
    found.close()
    # An epoch of either set shows every image of it, but for what is left over.
    assert len(set(np.concatenate([own for own, _ in seen]).tolist())) == 30
    assert len(set(np.concatenate([more for _, more in seen[:3]]).tolist())) == 18


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"label": None}, "no array label"),
        ({"image": IMAGES / 255}, r"image must be uint8.*float64 \(20, 8, 8, 1\)"),
        ({"image": IMAGES[..., 0]}, r"image must be uint8 \[N, H, W, C\]"),
        ({"image": IMAGES[:, :4]}, r"images of \(4, 8, 1\), the data set of \(8, 8"),
        ({"image": IMAGES[:5]}, r"label must have shape \(5,\).*got \(20,\)"),
        ({"image": IMAGES[:0], "label": LABELS[:0]}, "no images"),
        ({"label": LABELS + 1}, "below 10, the classes of the data set, got 10"),
        ({"label": LABELS - 1}, "class indices from 0, got -1"),
        ({"label": LABELS.astype(float)}, r"label must be integers \[N\]"),
        ({"label": LABELS.astype(object)}, "Python objects"),
    ],
)
def test_bad_files_are_refused(arrays, message, digits, tmp_path):
    path = saved(tmp_path, **arrays)
    with pytest.raises(ValueError, match=message) as error:
        data.load_extra(path, digits)
    assert "a.npz" in str(error.value)


def test_what_is_no_file_is_told(digits, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"b.npz.*data.extra.file"):
        data.load_extra(tmp_path / "b.npz", digits)
    (tmp_path / "b.npz").write_bytes(b"PK no more")
    with pytest.raises(ValueError, match=r"b.npz is damaged"):
        data.load_extra(tmp_path / "b.npz", digits)


def small(folder):
    """The fields of a run of two steps an epoch with extra images."""
    fields = config.base()
    config.shrink(fields)
    fields.model = {"name": "ssp_mnist", "integrator": "res", "blocks": 1, "width": 4}
    fields.objective.name = "standard"
    fields.data.extra.file = str(saved(folder))
    fields.data.extra.share = 0.25
    return fields


def test_a_run_remembers_its_extra_images(tmp_path):
    plain = small(tmp_path).to_dict()
    check.check(plain)
    mesh = parallel.make_mesh(1)
    run = setup.build(plain, mesh)
    [batch] = run.feed.batches(0, 1)
    assert (np.asarray(batch["index"]) >= 192 - 64).sum() == 16
    assert run.plan.steps_per_epoch == 2  # as without them
    run.record.write(tmp_path)
    before = splits.read_seen(tmp_path)
    setup.build(plain, mesh, resumed=True, before=before)
    saved(tmp_path, image=255 - IMAGES)
    with pytest.raises(ValueError, match=r"extra images.*allow_changed_data"):
        setup.build(plain, mesh, resumed=True, before=before)
    plain["data"]["extra"]["share"] = 0.5
    saved(tmp_path)
    with pytest.raises(ValueError, match=r"share.* 0.5 asks for 32 .* there are 20"):
        setup.build(plain, mesh)


def test_images_that_are_not_to_be_trained_on_are_told(tmp_path, monkeypatch):
    said = []
    for module in (extra, splits):
        monkeypatch.setattr(
            module.logging, "warning", lambda text, *args: said.append(text % args)
        )
    train = data.load("digits")
    test = data.load("digits", "test").take(np.arange(100))
    fields = small(tmp_path)
    _, held_out, _, record = splits.load_train(fields.to_dict())
    images = np.concatenate([held_out.images, test.images])
    labels = np.concatenate([held_out.labels, test.labels])
    saved(tmp_path, image=images, label=labels)
    extra.join(fields.to_dict(), train, record, None)
    told = "\n".join(said)
    assert "64 of the extra images are held out" in told
    assert "of the test images are training images too" in told


@pytest.mark.full
def test_recipes_go_together(tmp_path):
    """Extra and mixed images, a cyclic rate and averaged weights in one step."""
    fields = small(tmp_path)
    fields.data.mix.update(mixup=1.0, cutmix=1.0)
    fields.data.augment.cutout = 2
    fields.schedule.name = "cyclic"
    fields.train.swa_epochs = 1.0
    plain = fields.to_dict()
    check.check(plain)
    run = setup.build(plain, parallel.make_mesh(1))
    first = jax.device_get(run.state.params["model"])
    for batch in run.feed.batches(0, run.plan.total):
        run.state, metrics = run.step(run.state, batch, run.key)
        chex.assert_tree_all_finite(jax.device_get(metrics))
    last = run.state.params["model"]
    chex.assert_trees_all_close(run.state.variables["params"], last, rtol=1e-6)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), first, last)
    assert max(jax.tree.leaves(moved)) > 1e-5
