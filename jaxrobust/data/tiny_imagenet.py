"""TFDS builder of Tiny ImageNet: 200 classes, 64x64 pixels."""

from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from jaxrobust.data import _archives, _folders
from jaxrobust.data._formats import Example

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


class TinyImagenet(tfds.core.GeneratorBasedBuilder):
    """Tiny ImageNet: 100,000 images to train, 10,000 to validate, 64x64x3.

    The 10,000 images of the official test split have no public labels and are left
    out; `data.load` gives the validation split as 'test'. Classes are in the order of
    their WordNet ids, as torchvision's ImageFolder numbers them.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="ImageNet in small: 200 classes, 64x64 pixels.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(64, 64, 3)),
                    "label": tfds.features.ClassLabel(num_classes=200),
                    "id": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="http://cs231n.stanford.edu/",
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[Example]]:
        source = _folders.read_tiny_imagenet(
            _archives.open_members(dl_manager.download(URL))
        )
        if source is None:
            raise ValueError(f"{URL} is not in the official layout")
        features: Any = self.info.features
        features["label"].names = list(source.names["label"])
        return {split: generate() for split, generate in source.splits.items()}

    def _generate_examples(self, **kwargs: Any) -> Iterator[Example]:
        raise NotImplementedError("the split generators hold the examples")
