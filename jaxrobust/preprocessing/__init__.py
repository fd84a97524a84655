"""Defences that change the image before a network sees it, and how to attack them.

    defended = preprocessing.jpeg(logits_fn, quality=75)

Each wraps a function to logits and computes what the defence does (JPEG: to within the
rounding that `jpeg` tells of). What has a useless gradient is by default differentiated
as the identity (`gradient='past'`), so that an attack on the wrapped function is the
adaptive one (BPDA, Athalye et al. 2018); `gradient='through'` takes the change's own
gradient. What draws at random takes keys: attack it with `stochastic=True` and
`eot_samples`. Images are in [0, 1].
"""

from jaxrobust.preprocessing.filters import median_filter as median_filter
from jaxrobust.preprocessing.filters import smoothed as smoothed
from jaxrobust.preprocessing.wrappers import bit_depth as bit_depth
from jaxrobust.preprocessing.wrappers import denoise as denoise
from jaxrobust.preprocessing.wrappers import jpeg as jpeg
from jaxrobust.preprocessing.wrappers import median as median
from jaxrobust.preprocessing.wrappers import resize_and_pad as resize_and_pad
from jaxrobust.preprocessing.wrappers import total_variation as total_variation
