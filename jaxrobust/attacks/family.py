"""What attacks are composed of, for attacks of your own.

    @dataclasses.dataclass(frozen=True)
    class Flipped(family.Ascent):           # PGD that goes astray in one step of ten
        random = "the sign of a step"       # so that a key is asked for

        def look(self, problem, keys, i, x):
            grad, at = super().look(problem, keys, i, x)
            drawn = family.fold(keys, 0x666C69, i)  # a number of your own, and the step
            astray = jax.vmap(lambda key: jax.random.bernoulli(key, 0.1))(drawn)
            return jnp.where(astray[:, None, None, None], -grad, grad), at

`iterate` runs one, `shares` shows its options; `attacks/mim.py` is a whole example.
What follows no gradient is a `Method`: `evaluate` gives the loss of points, `watched`
keeps the `Health` that warnings come from, as in `attacks/square.py`.
"""

from jaxrobust.attacks._ascent import ADAM as ADAM
from jaxrobust.attacks._ascent import GRADIENT as GRADIENT
from jaxrobust.attacks._ascent import Ascent as Ascent
from jaxrobust.attacks._ascent import Direction as Direction
from jaxrobust.attacks._ascent import View as View
from jaxrobust.attacks._ascent import momentum as momentum
from jaxrobust.attacks._ascent import steepest as steepest
from jaxrobust.attacks._ascent import straight as straight
from jaxrobust.attacks._eager import iterate as iterate
from jaxrobust.attacks._method import Health as Health
from jaxrobust.attacks._method import Method as Method
from jaxrobust.attacks._method import choose as choose
from jaxrobust.attacks._method import model_keys as model_keys
from jaxrobust.attacks._method import watched as watched
from jaxrobust.attacks._nearest import Nearest as Nearest
from jaxrobust.attacks._nearest import Smallest as Smallest
from jaxrobust.attacks._objective import Problem as Problem
from jaxrobust.attacks._objective import evaluate as evaluate
from jaxrobust.attacks._objective import fold as fold
from jaxrobust.attacks._objective import gradient as gradient
from jaxrobust.attacks._options import BallOptions as BallOptions
from jaxrobust.attacks._options import LossOptions as LossOptions
from jaxrobust.attacks._options import ModelOptions as ModelOptions
from jaxrobust.attacks._options import shares as shares
