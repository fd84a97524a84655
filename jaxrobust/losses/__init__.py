"""Losses as pure functions of arrays: `[B]`, one value per example, or one number.

B examples, K classes, z logits `[B, K]`, p = softmax(z), y labels `[B]` in [0, K). The
caller takes the mean, or the sum. Attacks maximise `cross_entropy`, `margin`, `dlr` and
`dlr_targeted`; training minimises all but `contrastive_proximity` and
`center_separation`, which it subtracts.

All of them raise TypeError for arrays of another kind (logits are floating, labels
integers of any width), and ValueError for shapes that do not fit and for weights out
of range. `cross_entropy`, `squared_error`, `trades`, `hat`, `lbgat` and `score` take
distributions `[B, K]` in place of labels, too. The values of arrays are not looked at,
inside `jax.jit` or out of it: the loss of a label that is no class is NaN.

The examples assume

    >>> import jax.numpy as jnp
    >>> from jaxrobust import losses
    >>> jnp.set_printoptions(precision=3)
"""

from jaxrobust.losses.alignment import misalignment as misalignment
from jaxrobust.losses.classification import cross_entropy as cross_entropy
from jaxrobust.losses.classification import dlr as dlr
from jaxrobust.losses.classification import dlr_targeted as dlr_targeted
from jaxrobust.losses.classification import margin as margin
from jaxrobust.losses.hat import hat as hat
from jaxrobust.losses.lbgat import lbgat as lbgat
from jaxrobust.losses.logits import are_probabilities as are_probabilities
from jaxrobust.losses.logits import comparable as comparable
from jaxrobust.losses.logits import spacing as spacing
from jaxrobust.losses.macer import macer as macer
from jaxrobust.losses.mart import mart as mart
from jaxrobust.losses.pc import logit_constraint as logit_constraint
from jaxrobust.losses.pc import pc as pc
from jaxrobust.losses.pcl import center_distances as center_distances
from jaxrobust.losses.pcl import center_separation as center_separation
from jaxrobust.losses.pcl import contrastive_proximity as contrastive_proximity
from jaxrobust.losses.pcl import proximity as proximity
from jaxrobust.losses.score import score as score
from jaxrobust.losses.score import squared_error as squared_error
from jaxrobust.losses.ssc import spatial_structure as spatial_structure
from jaxrobust.losses.trades import kl_divergence as kl_divergence
from jaxrobust.losses.trades import trades as trades
