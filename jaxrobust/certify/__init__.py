"""Certificates: what no perturbation of a ball can do, proved.

An attack bounds the worst case from one side, these functions from the other:

    certify.bounds(fn, lower, upper, method='crown') -> (lower, upper)
    certify.margin(logits_fn, x, y, eps=.1) -> [B]        positive is proved

The life of the data, a file each:

    _graph.py         trace(fn): the jaxpr as a `Graph`; inner calls written out, all
                      that does not depend on the input computed. A value is an array
                      or a `Node`. What is in no table is an error with its line.
    _rewrites.py      what a node is said by others: patterns of `select_n` (a maximum,
                      a leaky ReLU), division, `split`, pools, loops
    _composites.py    functions of JAX whose rule is better than those of their parts
    _affine.py        the table AFFINE: primitives that are affine in the input; images
                      of intervals, and of linear forms backwards (by transposition)
    _nonlinear.py     the table NONLINEAR: `interval`, and `relax`, planes below and
                      above; without planes a node is as good as its interval
    _several.py       planes, and rules of functions of several values: maxima, products
    _curves.py        planes of functions of one number: convex, concave, S-shaped
    _regions.py       box and ball: the least value of a linear form
    _backwards.py     linear forms backwards through a graph
    _windows.py       which window of each layer a value behind convolutions depends on
    _crops.py         the graph of such a window
    _propagate.py     intervals of all nodes: forwards, or by forms in chunks of rows
    _numbers.py       which outputs may be no number: of these nothing is proved
    _alone.py         that a network treats each row by itself
    bounding.py       bounds: the four methods
    margins.py        margin, radius; worst_logits, for training
    branching.py      branch and bound, for small networks
    smoothing.py      randomised smoothing: smooth, and its statistics

A new primitive is one entry of a table: of AFFINE if it is affine (how it treats
signs), else of NONLINEAR (an interval, and planes if one knows them).

No numbers. Where a network may take the logarithm or the root of what is negative, add
or multiply infinities, or have constants that are none, nothing is proved of what reads
such a value, and nothing at all where it asks of what may be infinite whether it is
(`isnan`, `isfinite`).

Rounding. All is computed in the dtype of the input. Before each operation that rounds
an interval grows by `ULPS` (4) units in the last place of its ends, planes by as many
of their values, and a linear form by as many of the sum of the sizes of all its terms.
This covers what sums and elementary functions lose, in the bounds and in the network;
it does not follow the rounding of coefficients from layer to layer. In float64 it is
far below anything that matters; a proof in float32 is up to it.
"""

from jaxrobust.certify._graph import Unsupported as Unsupported
from jaxrobust.certify.bounding import METHODS as METHODS
from jaxrobust.certify.bounding import bounds as bounds
from jaxrobust.certify.margins import margin as margin
from jaxrobust.certify.margins import radius as radius
from jaxrobust.certify.margins import worst_logits as worst_logits
from jaxrobust.certify.smoothing import ABSTAINED as ABSTAINED
from jaxrobust.certify.smoothing import Smoothed as Smoothed
from jaxrobust.certify.smoothing import smooth as smooth
