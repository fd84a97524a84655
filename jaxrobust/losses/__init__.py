"""Losses as functions of arrays: one value per example, to be maximised by attacks."""

from jaxrobust.losses.classification import cross_entropy as cross_entropy
from jaxrobust.losses.classification import dlr as dlr
from jaxrobust.losses.classification import dlr_targeted as dlr_targeted
from jaxrobust.losses.classification import margin as margin
from jaxrobust.losses.trades import trades as trades
