"""TFDS builders that write examples of ours, without TensorFlow."""

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from jaxrobust.data import _images
from jaxrobust.data._archives import Members
from jaxrobust.data._formats import Example, Splits
from jaxrobust.data._names import printable
from jaxrobust.data._reading import named
from jaxrobust.data._tfds import FORMAT

_ABANDONED_S = 3600


def official(name: str, root: epath.Path) -> Any:
    """TFDS's own builder of `name`, or ours where it has none, below `root`."""
    import tensorflow_datasets as tfds

    # Importing them registers them with TFDS.
    from jaxrobust.data import own_builders as own_builders

    builder_cls: Any = tfds.builder_cls(name)
    return builder_cls(data_dir=root)


def custom(name: str, root: epath.Path, members: Members) -> Any:
    """A builder for image files under any name: features image and label.

    The feature's height and width are those of the images, unknown where they differ;
    it has one channel where no image has colour.
    """
    from jaxrobust.data.own_builders import ImageBuilder

    headers = []
    for path, read in members.items():
        with named(printable, path):
            headers.append(_images.header(io.BytesIO(read())))
    sizes = {(one.height, one.width) for one in headers}
    height, width = sizes.pop() if len(sizes) == 1 else (None, None)

    class Folder(ImageBuilder, skip_registration=True):
        """Images of a folder, one folder per class."""

        ABOUT = f"Images of the user's own: {name}."
        SHAPE = (height, width, 1 if all(one.grey for one in headers) else 3)
        TEXT = None

    Folder.name = name
    return Folder(data_dir=root)


def write(builder: Any, source: Splits) -> epath.Path:
    """Writes the array_record files of a builder whose data are not prepared yet.

    The examples have all features of the builder, maybe more; one that does not fit is
    a ValueError. Nothing remains of a failed attempt. Returns the prepared directory.
    """
    features = builder.info.features
    for key, names in source.names.items():
        if key in features:
            features[key].names = list(names)

    def fitting(generate: Callable[[], Iterator[Example]]) -> Iterator[Example]:
        for key, example in generate():
            yield key, {name: example[name] for name in features}

    # Set on the instance: a subclass would register a second builder of this name.
    builder._split_generators = lambda dl_manager: {
        split: fitting(generate) for split, generate in source.splits.items()
    }
    prepared = epath.Path(builder.data_dir)
    parent = prepared.parent
    _remove_abandoned(parent)
    try:
        # TFDS makes a download folder even where nothing is downloaded.
        with tempfile.TemporaryDirectory() as scratch:
            builder.download_and_prepare(download_dir=scratch, file_format=FORMAT)
    except BaseException:
        # TFDS has removed its incomplete directory, but not the one around it.
        if parent.exists() and not list(parent.iterdir()):
            parent.rmdir()
        raise
    return prepared


def _remove_abandoned(folder: epath.Path) -> None:
    """Removes what a killed run left, told from one at work by an hour of silence."""
    for left in folder.glob("incomplete.*"):
        newest = max(path.stat().mtime for path in (left, *left.iterdir()))
        if time.time() - newest > _ABANDONED_S:
            left.rmtree()
