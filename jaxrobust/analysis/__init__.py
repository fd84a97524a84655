"""Numbers that tell how a network reacts to perturbations. No plots."""

from jaxrobust.analysis.gaps import probability_gap as probability_gap
from jaxrobust.analysis.growth import Growth as Growth
from jaxrobust.analysis.growth import growth_ratios as growth_ratios
from jaxrobust.analysis.growth import mean_growth as mean_growth
from jaxrobust.analysis.growth import measure_growth as measure_growth
from jaxrobust.analysis.prototypes import prototype_distances as prototype_distances
from jaxrobust.analysis.ranks import RankShares as RankShares
from jaxrobust.analysis.ranks import class_rank as class_rank
from jaxrobust.analysis.ranks import newly_successful as newly_successful
from jaxrobust.analysis.ranks import rank_shares as rank_shares
