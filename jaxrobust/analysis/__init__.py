"""Numbers that tell how a network reacts to perturbations. No plots."""

from jaxrobust.analysis.growth import Growth as Growth
from jaxrobust.analysis.growth import growth_ratios as growth_ratios
from jaxrobust.analysis.growth import mean_growth as mean_growth
from jaxrobust.analysis.logits import log_odds as log_odds
from jaxrobust.analysis.logits import probability_gap as probability_gap
from jaxrobust.analysis.masking import GradientHealth as GradientHealth
from jaxrobust.analysis.masking import gradient_health as gradient_health
from jaxrobust.analysis.masking import input_gradient as input_gradient
from jaxrobust.analysis.prototypes import prototype_distances as prototype_distances
from jaxrobust.analysis.ranks import RankShares as RankShares
from jaxrobust.analysis.ranks import class_rank as class_rank
from jaxrobust.analysis.ranks import newly_successful as newly_successful
from jaxrobust.analysis.ranks import rank_shares as rank_shares
