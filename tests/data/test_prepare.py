"""Tiny archives in the official formats, prepared and read back."""

import gzip
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import time
import urllib.error
import zipfile

import numpy as np
import pytest
from PIL import Image
from scipy import io as scipy_io

from jaxrobust import data
from jaxrobust.data import _download, prepare

RNG = np.random.default_rng(0)


def _pixels(count, *shape):
    return RNG.integers(0, 256, (count, *shape), dtype=np.uint8)


def _encoded(image, file_format="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=file_format)
    return buffer.getvalue()


def _idx(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def _write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def _tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def _zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def _same_examples(dataset, images, labels):
    """Whether the set holds just these images with these labels, in any order."""
    ours = sorted(
        (i.tobytes(), int(c))
        for i, c in zip(dataset.images, dataset.labels, strict=True)
    )
    return ours == sorted(
        (i.tobytes(), int(c)) for i, c in zip(images, labels, strict=True)
    )


@pytest.fixture
def root(tmp_path):
    return tmp_path / "tfds"


@pytest.fixture
def mnist(tmp_path):
    """A folder with the four files, and the arrays in them."""
    files, arrays = {}, {}
    for split, prefix, count in (("train", "train", 20), ("test", "t10k", 10)):
        images, labels = _pixels(count, 28, 28), np.arange(count, dtype=np.uint8) % 10
        files[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(_idx(images))
        files[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(_idx(labels))
        arrays[split] = images[..., None], labels
    return _write(tmp_path / "mnist_files", files), arrays


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files(name, mnist, root):
    folder, arrays = mnist
    path = prepare.prepare(name, data_dir=root, source=folder, verify=False)
    assert path.parent == root / name
    for split, (images, labels) in arrays.items():
        dataset = data.load(name, split, data_dir=root)
        assert _same_examples(dataset, images, labels)
    assert dataset.class_names[3] == {"mnist": "3"}.get(name, "Dress")
    info = json.loads((path / "dataset_info.json").read_text())
    assert (info["name"], info["fileFormat"]) == (name, "array_record")
    assert info["moduleName"] == "tensorflow_datasets.image_classification.mnist"


def test_official_tfds_reads_it(mnist, root):
    import tensorflow_datasets as tfds

    folder, arrays = mnist
    prepare.prepare("mnist", data_dir=root, source=folder, verify=False)
    source = tfds.builder("mnist", data_dir=root).as_data_source("train")
    images = np.stack([example["image"] for example in source])
    labels = np.array([example["label"] for example in source])
    dataset = data.load("mnist", data_dir=root)
    np.testing.assert_array_equal(dataset.images, images)
    np.testing.assert_array_equal(dataset.labels, labels)
    assert _same_examples(dataset, *arrays["train"])
    limited = data.load("mnist", data_dir=root, limit=5, image_size=14)
    assert limited.shape == (14, 14, 1)
    np.testing.assert_array_equal(limited.labels, labels[::4])
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("form", ["binary", "python"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_archives(name, form, tmp_path, root):
    ten = name == "cifar10"
    names = {"label": [f"class_{i}" for i in range(10 if ten else 100)]}
    if not ten:
        names["coarse_label"] = [f"coarse_{i}" for i in range(20)]
    files, expected = {}, {"train": ([], []), "test": ([], [])}
    stems = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for stem in stems if ten else ("train", "test"):
        images, labels = _pixels(4, 3, 32, 32), RNG.integers(0, 10, 4)
        if form == "binary":
            columns = [labels] if ten else [labels // 5, labels]
            rows = np.column_stack([*columns, images.reshape(4, -1)])
            files[f"cifar/{stem}.bin"] = rows.astype(np.uint8).tobytes()
        else:
            batch = {"data": images.reshape(4, -1)}
            batch["labels" if ten else "fine_labels"] = labels.tolist()
            batch["coarse_labels"] = (labels // 5).tolist()
            # The official files are of a NumPy whose core had another name.
            old = pickle.dumps(batch, protocol=2).replace(b"numpy._core", b"numpy.core")
            assert b"numpy.core.multiarray" in old
            files[f"cifar/{stem}"] = old
        split = expected["test" if "test" in stem else "train"]
        split[0].extend(images.transpose(0, 2, 3, 1))
        split[1].extend(labels)
    if form == "binary":
        text = "batches.meta.txt" if ten else "fine_label_names.txt"
        files[f"cifar/{text}"] = "\n".join([*names["label"], ""]).encode()
        if not ten:
            coarse = "\n".join(names["coarse_label"])
            files["cifar/coarse_label_names.txt"] = coarse.encode()
    else:
        key = "label_names" if ten else "fine_label_names"
        meta = {key: names["label"]}
        meta["coarse_label_names"] = names.get("coarse_label", [])
        files["cifar/batches.meta" if ten else "cifar/meta"] = pickle.dumps(meta)
    archive = _tar(tmp_path / "cifar.tar.gz", files)
    path = prepare.prepare(name, data_dir=root, source=archive)
    for split, (images, labels) in expected.items():
        dataset = data.load(name, split, data_dir=root)
        assert _same_examples(dataset, images, labels)
        assert dataset.class_names == tuple(names["label"])
    if not ten:
        written = (path / "coarse_label.labels.txt").read_text().split()
        assert written == names["coarse_label"]


class _Malice:
    def __reduce__(self):
        return print, ("this must not run",)


def test_cifar_pickles_cannot_run_code(tmp_path, root, capsys):
    files = {f"data_batch_{i}": pickle.dumps(_Malice()) for i in range(1, 6)}
    folder = _write(tmp_path / "c", files | {"test_batch": b""})
    with pytest.raises(ValueError, match=r"not a CIFAR file: refused to load .*print"):
        prepare.prepare("cifar10", data_dir=root, source=folder)
    assert "must not run" not in capsys.readouterr().out
    assert not list(root.glob("*"))


def test_svhn_mat_files(tmp_path, root):
    expected, folder = {}, tmp_path / "svhn"
    folder.mkdir()
    for split, count in (("train", 12), ("test", 5)):
        images, labels = _pixels(count, 32, 32, 3), RNG.integers(1, 11, count)
        content = {"X": np.moveaxis(images, 0, -1), "y": labels[:, None]}
        scipy_io.savemat(folder / f"{split}_32x32.mat", content)
        expected[split] = images, labels % 10
    prepare.prepare("svhn_cropped", data_dir=root, source=folder, verify=False)
    for split, (images, labels) in expected.items():
        dataset = data.load("svhn_cropped", split, data_dir=root)
        assert _same_examples(dataset, images, labels)


def _tiny_imagenet(top):
    wnids = ["n300", "n100", *(f"n5{i:03d}" for i in range(198))]  # not sorted
    files = {f"{top}wnids.txt": "\n".join(wnids).encode()}
    words = "n100\tgoldfish, Carassius\nn300\tcrane\nn5000\tcrane\nother\tnothing"
    files[f"{top}words.txt"] = words.encode()
    images = _pixels(5, 64, 64, 3)
    files[f"{top}train/n100/images/n100_0.JPEG"] = _encoded(images[0])
    files[f"{top}train/n100/n100_boxes.txt"] = b"n100_0.JPEG\t0\t0\t62\t62\n"
    files[f"{top}train/n300/images/n300_0.JPEG"] = _encoded(images[1])
    grey = images[2, ..., 0]
    files[f"{top}train/n300/images/n300_1.JPEG"] = _encoded(grey)
    files[f"{top}val/images/val_0.JPEG"] = _encoded(images[3])
    files[f"{top}val/val_annotations.txt"] = b"val_0.JPEG\tn300\t0\t32\t44\t62\n"
    files[f"{top}test/images/test_0.JPEG"] = _encoded(images[4])
    images[2] = grey[..., None]
    return files, images


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_tiny_imagenet(form, tmp_path, root):
    files, images = _tiny_imagenet("tiny-imagenet-200/")
    source = (
        _zip(tmp_path / "tiny.zip", files)
        if form == "zip"
        else _write(tmp_path / "unpacked", files)
    )
    prepare.prepare("tiny_imagenet", data_dir=root, source=source)
    train = data.load("tiny_imagenet", data_dir=root)
    test = data.load("tiny_imagenet", "test", data_dir=root)
    # Sorted WordNet ids: n100 is 0, n300 is 1.
    assert _same_examples(train, images[:3], [0, 1, 1])
    assert _same_examples(test, images[3:4], [1])
    assert train.num_classes == 200
    assert train.class_names[:2] == ("goldfish", "crane (n300)")
    assert train.class_names[-1] == "n5197"


def test_tiny_imagenet_builder_works_by_itself(tmp_path):
    from jaxrobust.data import own_builders

    files, images = _tiny_imagenet("tiny-imagenet-200/")
    archive = _zip(tmp_path / "tiny.zip", files)

    class Downloads:
        def download(self, url):
            assert url in builder.url_infos  # so its checksum is known
            return archive

    builder = own_builders.TinyImagenet(data_dir=tmp_path)
    splits = builder._split_generators(Downloads())
    counts = {split: len(list(examples)) for split, examples in splits.items()}
    assert counts == {"train": 3, "validation": 1}
    assert len(images) == 5  # the unlabelled test image is left out


def test_caltech101_nested_archives(tmp_path, root):
    inner, images = {}, {}
    for folder, count in (("accordion", 33), ("Faces", 31), ("BACKGROUND_Google", 30)):
        for index in range(count):
            image = _pixels(1, 20 + index % 3, 24, 3)[0]
            path = f"101_ObjectCategories/{folder}/image_{index:04d}.jpg"
            inner[path] = _encoded(image, "PNG")
            images[folder, index] = image
    tar = _tar(tmp_path / "101_ObjectCategories.tar.gz", inner)
    outer = {"caltech-101/101_ObjectCategories.tar.gz": tar.read_bytes()}
    source = _zip(tmp_path / "caltech.zip", outer)
    prepare.prepare("caltech101", data_dir=root, source=source)
    train = data.load("caltech101", data_dir=root)
    assert train.shape == (224, 224, 3)
    assert train.num_classes == 102
    test = data.load("caltech101", "test", data_dir=root, image_size=16)
    counts = {train.class_names[c]: int((train.labels == c).sum()) for c in range(102)}
    assert {name: n for name, n in counts.items() if n} == {
        "accordion": 30,
        "faces": 30,
        "background_google": 30,
    }
    names = [test.class_names[c] for c in test.labels]
    assert sorted(names) == ["accordion"] * 3 + ["faces"]


def _caltech(folders, count=12):
    """Archive members with `count` or one more small images per class."""
    files = {}
    for label, folder in enumerate(folders):
        # Each image is of one grey level of its own, and of a size of its own.
        for index in range(count + label % 2):
            image = np.full((4 + index % 3, 5, 3), index + 1, np.uint8)
            files[f"top/{folder}/{label + 1:03d}_{index + 1:04d}.jpg"] = _encoded(image)
    files["top/056.dog/greg/vision309/stray_0001.jpg"] = _encoded(image)
    files["top/198.spider/RENAME2"] = b"not an image"
    return files


_CALTECH_101 = ["BACKGROUND_Google", "Faces", *(f"animal {i:03d}" for i in range(100))]
_CALTECH_256 = [f"{i:03d}.{'dog' if i == 56 else f'c{i}'}" for i in range(1, 257)]


@pytest.mark.parametrize(
    ("name", "folders"),
    [
        pytest.param("caltech101_90_10", _CALTECH_101, marks=pytest.mark.full),
        ("caltech256", [*_CALTECH_256, "257.clutter"]),
    ],
)
def test_nine_tenths_of_each_class_train(name, folders, tmp_path, root):
    files = _caltech(folders)
    # The order of an archive's entries is not that of the names.
    source = _tar(tmp_path / "images.tar.gz", dict(reversed(files.items())))
    prepare.prepare(name, data_dir=root, source=source)
    train, test = (
        data.load(name, split, data_dir=root, image_size=2)
        for split in ("train", "test")
    )
    assert train.num_classes == test.num_classes == len(folders)
    assert train.class_names[0] == folders[0].removeprefix("001.")
    assert train.class_names[-1] == folders[-1].removeprefix("257.")
    for label in (0, 1, len(folders) - 1):
        # 12 images: 10 and 2; 13 images: 11 and 2.
        levels = [
            sorted(part.images[part.labels == label][:, 0, 0, 0])
            for part in (train, test)
        ]
        count = 12 + label % 2
        assert levels == [
            list(range(1, count - 1)),
            list(range(count - 1, count + 1)),
        ]
    assert len(train) + len(test) == len(folders) * 12 + len(folders) // 2


def test_nine_tenths_need_every_class(tmp_path, root):
    files = _caltech(_CALTECH_256)
    folder = _write(tmp_path / "c", files)
    with pytest.raises(ValueError, match=r"has 257 class folders, but 256 are there"):
        prepare.prepare("caltech256", data_dir=root, source=folder)
    assert not list(root.rglob("*"))


def test_caltech_builders_work_by_themselves(tmp_path):
    from jaxrobust.data import own_builders

    files = _caltech([*_CALTECH_256, "257.clutter"], count=1)
    builder = own_builders.Caltech256(data_dir=tmp_path)
    assert builder.name == "caltech256"
    assert builder.ARCHIVE in builder.MANUAL_DOWNLOAD_INSTRUCTIONS

    class Downloads:
        manual_dir = tmp_path

    with tarfile.open(tmp_path / builder.ARCHIVE, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    splits = builder._split_generators(Downloads())
    counts = {split: len(list(examples)) for split, examples in splits.items()}
    assert counts == {"train": 128, "test": 257}
    assert builder.info.features["label"].names[-1] == "clutter"


def test_md5_of_an_archive_without_sha256(tmp_path, root):
    archive = tmp_path / "256_ObjectCategories.tar"
    archive.write_bytes(b"another file of this name")
    with pytest.raises(ValueError, match=r"expected MD5 67b4f42c.*found") as error:
        prepare.prepare("caltech256", data_dir=root, source=archive)
    assert hashlib.md5(archive.read_bytes()).hexdigest() in str(error.value)


def _folder(tmp_path, classes=("cat", "dog"), shape=(8, 9, 3), test="test"):
    images, files = _pixels(6, *shape), {}
    for index, image in enumerate(images):
        split = test if index > 3 else "train"
        files[f"mine/{split}/{classes[index % 2]}/{index}.png"] = _encoded(image)
    return _write(tmp_path / "folder", files), images


@pytest.mark.parametrize("test", ["test", "val"])
def test_image_folder_under_any_name(test, tmp_path, root):
    folder, images = _folder(tmp_path, test=test)
    prepare.prepare("my_animals", data_dir=root, source=folder)
    train = data.load("tfds:my_animals", data_dir=root)
    held_out = data.load("tfds:my_animals", "test", data_dir=root)
    assert train.class_names == ("cat", "dog")
    assert _same_examples(train, images[:4], [0, 1, 0, 1])
    assert _same_examples(held_out, images[4:], [0, 1])
    # A second builder of the same kind does not disturb the first.
    prepare.prepare("my_animals", data_dir=root / "again", source=folder)


def test_image_folder_of_an_official_set(tmp_path, root):
    folder, images = _folder(tmp_path, ("7", "2"), (28, 28))
    prepare.prepare("mnist", data_dir=root, source=folder)
    train = data.load("mnist", data_dir=root)
    assert _same_examples(train, images[:4, ..., None], [7, 2, 7, 2])
    with pytest.raises(ValueError, match=r"png is 28x28 pixels, the data set has 32x"):
        prepare.prepare("cifar10", data_dir=root, source=folder)
    folder, _ = _folder(tmp_path / "b", ("Dress", "Dres"), (28, 28))
    with pytest.raises(ValueError, match=r"T-shirt/top.* 2 folders with Dres"):
        prepare.prepare("fashion_mnist", data_dir=root, source=folder)
    assert [path.name for path in root.iterdir()] == ["mnist"]


def test_a_second_run_changes_nothing(mnist, root):
    folder, _ = mnist
    first = prepare.prepare("mnist", data_dir=root, source=folder, verify=False)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert prepare.prepare("mnist", data_dir=root) == first
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_wrong_checksum_names_both(mnist, root):
    folder, _ = mnist
    first = folder / "t10k-images-idx3-ubyte.gz"
    found = hashlib.sha256(first.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="expected SHA-256") as error:
        prepare.prepare("mnist", data_dir=root, source=folder)
    official = "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    for part in (str(first), found, official, "--no_verify"):
        assert part in str(error.value)
    assert not root.exists()


def test_failure_in_the_middle_leaves_nothing(mnist, root):
    folder, _ = mnist
    labels = gzip.compress(_idx(np.full(10, 10, np.uint8)))  # classes are 0 to 9
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(labels)
    with pytest.raises(ValueError, match="10 greater than configured num_classes 10"):
        prepare.prepare("mnist", data_dir=root, source=folder, verify=False)
    assert not list(root.rglob("*"))


def test_what_a_killed_run_left_is_removed_once_it_is_old(mnist, root):
    folder, _ = mnist
    for name, age_s in (("incomplete.AAAAAA_3.0.1", 7200), ("incomplete.BBB_3.0.1", 0)):
        left = root / "mnist" / name / "shard"
        left.parent.mkdir(parents=True)
        left.write_text("half")
        for path in (left, left.parent):
            os.utime(path, (time.time() - age_s,) * 2)
    prepare.prepare("mnist", data_dir=root, source=folder, verify=False)
    found = sorted(path.name for path in (root / "mnist").iterdir())
    assert found == ["3.0.1", "incomplete.BBB_3.0.1"]


@pytest.mark.parametrize("damage", ["missing", "cut", "info"])
def test_damaged_files_are_named(damage, mnist, root):
    folder, _ = mnist
    path = prepare.prepare("mnist", data_dir=root, source=folder, verify=False)
    [shard] = path.glob("mnist-test.array_record*")
    if damage == "missing":
        shard.unlink()
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:3000])
    else:
        (path / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match="data set 'mnist' is damaged in") as error:
        data.load("mnist", "test", data_dir=root)
    message = str(error.value)
    assert len(message.splitlines()) == 3
    assert str(path) in message
    assert "python -m jaxrobust.data.prepare mnist" in message


@pytest.mark.parametrize(
    ("name", "source", "error", "message"),
    [
        ("digits", None, ValueError, "comes with scikit-learn"),
        ("cifar_10", None, ValueError, "Did you mean 'cifar10'?"),
        ("Bad-Name", "here", ValueError, "lower-case letters"),
        ("mnist", "nowhere", FileNotFoundError, "no such archive or folder"),
        ("mnist", "note.txt", ValueError, "neither a folder nor an archive"),
        ("mnist", "broken.zip", ValueError, "not a complete archive"),
        ("mnist", "broken.tar.gz", ValueError, "not a complete archive"),
        ("mnist", ".", ValueError, "does not hold the data set 'mnist'"),
        ("my_own", ".", ValueError, "does not hold the data set 'my_own'"),
    ],
)
def test_prepare_refuses(name, source, error, message, tmp_path, root):
    for file in ("note.txt", "broken.zip", "broken.tar.gz"):
        (tmp_path / file).write_text("nothing")
    source = None if source is None else tmp_path / source
    with pytest.raises(error) as raised:
        prepare.prepare(name, data_dir=root, source=source)
    assert message in str(raised.value)
    assert len(str(raised.value).splitlines()) <= 3
    assert not root.exists()


def test_data_in_another_format_are_not_taken_for_ours(mnist, root):
    folder, _ = mnist
    path = prepare.prepare("mnist", data_dir=root, source=folder, verify=False)
    info = json.loads((path / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (path / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(FileNotFoundError, match=r"found 3.0.1 in another file format"):
        data.load("mnist", data_dir=root)
    with pytest.raises(ValueError, match="in the format tfrecord"):
        prepare.prepare("mnist", data_dir=root)


class _Response(io.BytesIO):
    pass


def test_download_checks_and_prepares(mnist, root, monkeypatch):
    """The network is replaced by the folder; its checksums by those of the files."""
    folder, arrays = mnist
    asked = []

    def urlopen(request, timeout):
        asked.append(request.full_url)
        name = request.full_url.rsplit("/", 1)[-1]
        return _Response((folder / name).read_bytes())

    monkeypatch.setattr(_download.urllib.request, "urlopen", urlopen)
    with pytest.raises(ValueError, match=r"has SHA-256 .*, expected 440fcabf"):
        prepare.prepare("mnist", data_dir=root)
    assert not [file for file in root.rglob("*") if file.is_file()]
    monkeypatch.setattr(
        prepare,
        "_files",
        lambda builder: {
            info.filename: (url, hashlib.sha256(file.read_bytes()).hexdigest())
            for url, info in _mnist_infos().items()
            if (file := folder / info.filename).exists()
        },
    )
    prepare.prepare("mnist", data_dir=root)
    assert _same_examples(data.load("mnist", data_dir=root), *arrays["train"])
    assert len(asked) == 5
    assert all(url.startswith("https://storage.googleapis.com/") for url in asked)


def _mnist_infos():
    import tensorflow_datasets as tfds

    return tfds.builder_cls("mnist").url_infos


@pytest.mark.parametrize(
    "name",
    [
        "mnist",
        "cifar100",
        "caltech101",
        "caltech101_90_10",
        "caltech256",
        "tiny_imagenet",
    ],
)
def test_no_network_is_said_in_three_lines(name, root, monkeypatch):
    def urlopen(request, timeout):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(_download.urllib.request, "urlopen", urlopen)
    with pytest.raises(FileNotFoundError) as error:
        prepare.prepare(name, data_dir=root)
    message = str(error.value)
    assert len(message.splitlines()) == 3
    for part in (name, str(root), "Name or service not known", "--from", "http"):
        assert part in message
    assert not list(root.rglob("*"))


def test_command_line(mnist, root):
    folder, _ = mnist
    command = [sys.executable, "-m", "jaxrobust.data.prepare", "mnist"]
    command += ["--data_dir", str(root), "--from", str(folder)]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: checksum of")
    assert "Traceback" not in refused.stderr
    done = subprocess.run([*command, "--no_verify"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"mnist is prepared in {root}" in done.stdout
    assert len(data.load("mnist", "test", data_dir=root)) == 10
