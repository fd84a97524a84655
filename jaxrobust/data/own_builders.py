"""TFDS builders of sets that TFDS does not have, or divides in another way.

Tiny ImageNet; Caltech-101 and -256 with nine tenths of each class to train, where
TFDS's own `caltech101` has 30 images of each.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from jaxrobust.data import _archives, _caltech, _folders
from jaxrobust.data._formats import Example, Splits

_NINE_TENTHS = (
    "{}, {} classes with the clutter class; the first nine tenths of each class, by "
    "file name, to train."
)


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What the sets share: an image, a label and a text for each example."""

    VERSION = tfds.core.Version("1.0.0")
    ABOUT: ClassVar[str]
    HOMEPAGE: ClassVar[str]
    SHAPE: ClassVar[tuple[int | None, int | None, int]] = (None, None, 3)
    TEXT: ClassVar[str] = "image/file_name"
    NUM_CLASSES: ClassVar[int]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.ABOUT,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=self.SHAPE),
                    "label": tfds.features.ClassLabel(num_classes=self.NUM_CLASSES),
                    self.TEXT: tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            homepage=self.HOMEPAGE,
        )

    def _read(
        self, dl_manager: tfds.download.DownloadManager
    ) -> tuple[str, Splits | None]:
        """Returns where the archive is, and what it holds if in the official layout."""
        raise NotImplementedError

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[Example]]:
        place, found = self._read(dl_manager)
        if found is None:
            raise ValueError(f"{place} is not in the official layout")
        features: Any = self.info.features
        features["label"].names = list(found.names["label"])
        return {split: generate() for split, generate in found.splits.items()}

    def _generate_examples(self, **kwargs: Any) -> Iterator[Example]:
        raise NotImplementedError("the split generators hold the examples")


class TinyImagenet(_Builder):
    """Tiny ImageNet: 100,000 images to train, 10,000 to validate, 64x64x3.

    The 10,000 images of the official test split have no public labels and are left
    out; `data.load` gives the validation split as 'test'. Classes are in the order of
    their WordNet ids, as torchvision's ImageFolder numbers them.
    """

    name = "tiny_imagenet"
    ABOUT = "ImageNet in small: 200 classes, 64x64 pixels."
    HOMEPAGE = "http://cs231n.stanford.edu/"
    SHAPE = (64, 64, 3)
    TEXT = "id"
    NUM_CLASSES = 200
    URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"

    def _read(
        self, dl_manager: tfds.download.DownloadManager
    ) -> tuple[str, Splits | None]:
        members = _archives.open_members(dl_manager.download(self.URL))
        return self.URL, _folders.read_tiny_imagenet(members)


class _Caltech(_Builder, skip_registration=True):
    """What both sets share: colour images of many sizes."""

    HOMEPAGE = "https://data.caltech.edu/"
    ARCHIVE: ClassVar[str]

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:
        """What to fetch by hand for TFDS's own program; ours downloads it."""
        return f"Put {self.ARCHIVE} (data.caltech.edu) into the manual directory."

    def _read(
        self, dl_manager: tfds.download.DownloadManager
    ) -> tuple[str, Splits | None]:
        archive = dl_manager.manual_dir / self.ARCHIVE
        members = _archives.open_members(archive)
        return f"{archive}", _caltech.read_nine_tenths(members, self.NUM_CLASSES)


class Caltech256(_Caltech):
    """Caltech-256 (Griffin, Holub and Perona, 2007): 30,607 images, 257 classes."""

    name = "caltech256"
    ABOUT = _NINE_TENTHS.format("Caltech-256", 257)
    ARCHIVE = "256_ObjectCategories.tar"
    NUM_CLASSES = 257


class Caltech101NineTenths(_Caltech):
    """Caltech-101 (Fei-Fei, Fergus and Perona, 2004) in the division of the FPD paper.

    Its 102 classes are in the order of the published folders, upper case first, and not
    in TFDS's.
    """

    name = "caltech101_90_10"
    ABOUT = _NINE_TENTHS.format("Caltech-101", 102)
    ARCHIVE = "caltech-101.zip"
    NUM_CLASSES = 102
