"""Threat models: the ball of radius eps in a norm, cut with the image box.

Every function takes a batch `[B, ...]`, treats each row alone and works on traced
`eps` and `step_size`: a number, one per row `[B]`, or in Linf one per channel
`[1, 1, 1, C]` or per value `[B, H, W, C]`, whatever broadcasts to the images. Points
that `project` returns lie in the box exactly and in the ball up to 1e-6 * max(1, eps,
width of the box) when measured in float64: sums are pairwise, and points round towards
`x`. Half precision is computed in float32. The norms 'l0' (values that change) and
'l0_pixels' (pixels that do) have whole numbers for radii; others are rounded down.
"""

from jaxrobust._checks import ALL_NORMS as ALL_NORMS
from jaxrobust._checks import NORMS as NORMS
from jaxrobust._checks import SPARSE as SPARSE
from jaxrobust._checks import row_keys as row_keys
from jaxrobust.threat._ball import Radius as Radius
from jaxrobust.threat._ball import capped as capped
from jaxrobust.threat._ball import covering_radius as covering_radius
from jaxrobust.threat._ball import distance as distance
from jaxrobust.threat._ball import in_unit_ball as in_unit_ball
from jaxrobust.threat._ball import per_row as per_row
from jaxrobust.threat._ball import plain as plain
from jaxrobust.threat._ball import project as project
from jaxrobust.threat._ball import sample as sample
from jaxrobust.threat._ball import steepest_step as steepest_step
from jaxrobust.threat._precision import largest_where as largest_where
from jaxrobust.threat._precision import safe_divide as safe_divide
from jaxrobust.threat._precision import tamed as tamed
from jaxrobust.threat._precision import towards as towards
from jaxrobust.threat._precision import wide_dtype as wide_dtype
from jaxrobust.threat._sparse import grouped as grouped
from jaxrobust.threat._sparse import largest as largest
