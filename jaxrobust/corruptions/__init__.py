"""Common corruptions of images: `apply(name, x, key=..., severity=1..5) -> x`.

The 15 of CIFAR-10-C (Hendrycks and Dietterich 2019, arXiv 1903.12261, section 3) with
the constants of its small-image generation script, as functions of images and keys.
Nothing is downloaded and results are not comparable with the published CIFAR-10-C:
random draws differ, and where the original overlays photographs (frost) the texture
here is procedural.
"""

from jaxrobust.corruptions._table import apply as apply
from jaxrobust.corruptions._table import check_images as check_images
from jaxrobust.corruptions._table import check_name as check_name
from jaxrobust.corruptions._table import check_severity as check_severity
from jaxrobust.corruptions._table import names as names
