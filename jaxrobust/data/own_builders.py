"""TFDS builders of sets that TFDS does not have, or divides in another way."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from jaxrobust.data import _archives, _caltech, _folders
from jaxrobust.data._archives import Members
from jaxrobust.data._formats import Example, Splits

_NINE_TENTHS = (
    "{}, {} classes with the clutter class; the first nine tenths of each class, by "
    "file name, to train."
)


class ImageBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What the sets share: an image, a label and maybe a text for each example."""

    VERSION = tfds.core.Version("1.0.0")
    ABOUT: ClassVar[str]
    HOMEPAGE: ClassVar[str | None] = None
    ARCHIVE: ClassVar[str]  # a URL, or a file in the manual directory
    SHAPE: ClassVar[tuple[int | None, int | None, int]] = (None, None, 3)
    TEXT: ClassVar[str | None] = "image/file_name"
    NUM_CLASSES: ClassVar[int | None] = None  # as many as there are names
    # Gives what the official archive holds; None where these are no files of it.
    read: ClassVar[Callable[[Members], Splits | None]] = staticmethod(
        lambda files: None
    )

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = {
            "image": tfds.features.Image(shape=self.SHAPE),
            "label": tfds.features.ClassLabel(num_classes=self.NUM_CLASSES),
        }
        if self.TEXT:
            features[self.TEXT] = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.ABOUT,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage=self.HOMEPAGE,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Example]]:
        if "//" in self.ARCHIVE:
            place = dl_manager.download(self.ARCHIVE)
        else:
            place = dl_manager.manual_dir / self.ARCHIVE
        found = type(self).read(_archives.open_members(place))
        if found is None:
            raise ValueError(f"{self.ARCHIVE} ({place}) is not in the official layout")
        features: Any = self.info.features
        features["label"].names = list(found.names["label"])
        return {split: generate() for split, generate in found.splits.items()}

    def _generate_examples(self, **kwargs: Any) -> Iterator[Example]:
        raise NotImplementedError("the split generators hold the examples")


class TinyImagenet(ImageBuilder):
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
    ARCHIVE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    read = staticmethod(_folders.read_tiny_imagenet)


class _Caltech(ImageBuilder, skip_registration=True):
    """What both sets share: colour images of many sizes."""

    HOMEPAGE = "https://data.caltech.edu/"

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:
        """What to fetch by hand for TFDS's own program; ours downloads it."""
        return f"Put {self.ARCHIVE} (data.caltech.edu) into the manual directory."


class Caltech256(_Caltech):
    """Caltech-256 (Griffin, Holub and Perona, 2007): 30,607 images, 257 classes."""

    name = "caltech256"
    ABOUT = _NINE_TENTHS.format("Caltech-256", 257)
    ARCHIVE = "256_ObjectCategories.tar"
    NUM_CLASSES = 257
    read = staticmethod(partial(_caltech.read_nine_tenths, num_classes=257))


class Caltech101NineTenths(_Caltech):
    """Caltech-101 (Fei-Fei, Fergus and Perona, 2004) in the division of the FPD paper.

    Its 102 classes are in the order of the published folders, upper case first, and not
    in TFDS's.
    """

    name = "caltech101_90_10"
    ABOUT = _NINE_TENTHS.format("Caltech-101", 102)
    ARCHIVE = "caltech-101.zip"
    NUM_CLASSES = 102
    read = staticmethod(partial(_caltech.read_nine_tenths, num_classes=102))
