"""Networks: `create` one by name; `logits_fn` makes it a function of images.

A network is a Linen module:

    model = models.create('ssp_cifar', integrator='ssp2', blocks=2)
    variables = model.init(key, x, train=False)
    out = model.apply(variables, x, train=False)  # Outputs
"""

from jaxrobust.models import integrators as integrators
from jaxrobust.models import layers as layers
from jaxrobust.models._computing import Computing as Computing
from jaxrobust.models._outputs import Outputs as Outputs
from jaxrobust.models._outputs import as_outputs as as_outputs
from jaxrobust.models._outputs import logits_fn as logits_fn
from jaxrobust.models._outputs import per_example as per_example
from jaxrobust.models._precision import computing_with as computing_with
from jaxrobust.models._precision import in_bfloat16 as in_bfloat16
from jaxrobust.models._registry import create as create
from jaxrobust.models._registry import defaults as defaults
from jaxrobust.models._registry import names as names
from jaxrobust.models._to_linen import arguments as arguments
from jaxrobust.models._to_linen import to_linen as to_linen
from jaxrobust.models.fpd import fpd as fpd
