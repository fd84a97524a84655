"""Losses as functions of arrays: one value per example, to be maximised by attacks."""

from jaxrobust.losses.classification import cross_entropy as cross_entropy
from jaxrobust.losses.classification import dlr as dlr
from jaxrobust.losses.classification import dlr_targeted as dlr_targeted
from jaxrobust.losses.classification import margin as margin
from jaxrobust.losses.comparable import comparable as comparable
from jaxrobust.losses.comparable import spacing as spacing
from jaxrobust.losses.divergence import kl_divergence as kl_divergence
from jaxrobust.losses.mart import mart as mart
from jaxrobust.losses.pc import logit_constraint as logit_constraint
from jaxrobust.losses.pc import pc as pc
from jaxrobust.losses.pcl import center_distances as center_distances
from jaxrobust.losses.pcl import center_separation as center_separation
from jaxrobust.losses.pcl import contrastive_proximity as contrastive_proximity
from jaxrobust.losses.pcl import proximity as proximity
from jaxrobust.losses.probabilities import are_probabilities as are_probabilities
from jaxrobust.losses.ssc import spatial_structure as spatial_structure
from jaxrobust.losses.trades import trades as trades
