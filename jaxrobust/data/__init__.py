"""Image classification sets on the host: uint8 images, int32 labels, class names.

`load` reads scikit-learn's `digits`, sets prepared by TFDS (without TensorFlow), and a
user's own `npz:PATH` or `folder:PATH`; `open_source` opens them without reading.
`python -m jaxrobust.data.prepare NAME` makes the TFDS directory that `load` reads.
Augmentation, a pure jittable function, is in `jaxrobust.data.augment`.
"""

from jaxrobust.data._dataset import Dataset as Dataset
from jaxrobust.data._load import load as load
from jaxrobust.data._load import names as names
from jaxrobust.data._load import open_source as open_source
from jaxrobust.data._source import Source as Source
from jaxrobust.data._source import digest as digest
from jaxrobust.data._source import divide as divide
from jaxrobust.data._source import image_digests as image_digests
from jaxrobust.data._source import split_validation as split_validation
from jaxrobust.data._source import validation_rows as validation_rows
from jaxrobust.data.corruption_sets import SEVERITIES as SEVERITIES
from jaxrobust.data.corruption_sets import CorruptedImages as CorruptedImages
from jaxrobust.data.corruption_sets import Rows as Rows
from jaxrobust.data.corruption_sets import corruption_names as corruption_names
from jaxrobust.data.corruption_sets import open_corruption_set as open_corruption_set
from jaxrobust.data.extra import Joined as Joined
from jaxrobust.data.extra import load_extra as load_extra
from jaxrobust.data.imagenet import robustbench_imagenet as robustbench_imagenet
