"""Numbers that tell how a network reacts to perturbations. No plots."""

from jaxrobust.analysis.growth import Growth as Growth
from jaxrobust.analysis.growth import growth_ratios as growth_ratios
from jaxrobust.analysis.growth import mean_growth as mean_growth
from jaxrobust.analysis.growth import measure_growth as measure_growth
