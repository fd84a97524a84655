"""TFDS builders of Caltech-101 and Caltech-256 with nine tenths of each class to train.

TFDS's own `caltech101` has 30 training images per class; there is none of Caltech-256.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from jaxrobust.data import _archives, _caltech
from jaxrobust.data._formats import Example


class _Caltech(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What both sets share: colour images of many sizes."""

    VERSION = tfds.core.Version("1.0.0")
    TITLE: ClassVar[str]
    ARCHIVE: ClassVar[str]
    NUM_CLASSES: ClassVar[int]

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:
        """What to fetch by hand for TFDS's own program; ours downloads it."""
        return f"Put {self.ARCHIVE} (data.caltech.edu) into the manual directory."

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.TITLE}, {self.NUM_CLASSES} classes with the clutter "
            "class; the first nine tenths of each class, by file name, to train.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(num_classes=self.NUM_CLASSES),
                    "image/file_name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://data.caltech.edu/",
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[Example]]:
        archive = dl_manager.manual_dir / self.ARCHIVE
        members = _archives.open_members(archive)
        source = _caltech.read_nine_tenths(members, self.NUM_CLASSES)
        if source is None:
            raise ValueError(f"{archive} is not in the official layout")
        features: Any = self.info.features
        features["label"].names = list(source.names["label"])
        return {split: generate() for split, generate in source.splits.items()}

    def _generate_examples(self, **kwargs: Any) -> Iterator[Example]:
        raise NotImplementedError("the split generators hold the examples")


class Caltech256(_Caltech):
    """Caltech-256 (Griffin, Holub and Perona, 2007): 30,607 images, 257 classes."""

    name = "caltech256"
    TITLE = "Caltech-256"
    ARCHIVE = "256_ObjectCategories.tar"
    NUM_CLASSES = 257


class Caltech101NineTenths(_Caltech):
    """Caltech-101 (Fei-Fei, Fergus and Perona, 2004) in the division of the FPD paper.

    Its 102 classes are in the order of the published folders, upper case first, and not
    in TFDS's.
    """

    name = "caltech101_90_10"
    TITLE = "Caltech-101"
    ARCHIVE = "caltech-101.zip"
    NUM_CLASSES = 102
