"""Attacks as functions: `attack(logits_fn, x, y, *, key, eps, ...) -> x_adv`.

Each finds images in the eps-ball around `x` and in the box `bounds` on which the loss
is high. Under the caller's `jax.jit` they add none of their own, and `eps` and
`step_size` may be traced; called eagerly they check values, compile once per shape
and warn (`RobustnessWarning`) about results that are not to be trusted. A value out of
range is a ValueError, an array or a key of the wrong type a TypeError, which names it.
"""

from jaxrobust.attacks._objective import RobustnessWarning as RobustnessWarning
from jaxrobust.attacks._objective import on_input as on_input
from jaxrobust.attacks.apgd import apgd as apgd
from jaxrobust.attacks.apgd import apgd_targeted as apgd_targeted
from jaxrobust.attacks.bandits import bandits as bandits
from jaxrobust.attacks.boundary import boundary as boundary
from jaxrobust.attacks.brendel_bethge import brendel_bethge as brendel_bethge
from jaxrobust.attacks.cw_l2 import cw_l2 as cw_l2
from jaxrobust.attacks.cw_linf import cw_linf as cw_linf
from jaxrobust.attacks.ddn import ddn as ddn
from jaxrobust.attacks.deepfool import deepfool as deepfool
from jaxrobust.attacks.dim import admix as admix
from jaxrobust.attacks.dim import dim as dim
from jaxrobust.attacks.dim import sim as sim
from jaxrobust.attacks.dim import tim as tim
from jaxrobust.attacks.ead import ead as ead
from jaxrobust.attacks.elastic import elastic as elastic
from jaxrobust.attacks.fab import fab as fab
from jaxrobust.attacks.fmn import fmn as fmn
from jaxrobust.attacks.geoda import geoda as geoda
from jaxrobust.attacks.hop_skip_jump import hop_skip_jump as hop_skip_jump
from jaxrobust.attacks.hsv import hsv as hsv
from jaxrobust.attacks.jsma import jsma as jsma
from jaxrobust.attacks.mim import mim as mim
from jaxrobust.attacks.mixed_pgd import mixed_pgd as mixed_pgd
from jaxrobust.attacks.msd import msd as msd
from jaxrobust.attacks.multi_targeted import multi_targeted as multi_targeted
from jaxrobust.attacks.nes import nes as nes
from jaxrobust.attacks.nim import nim as nim
from jaxrobust.attacks.nim import vmim as vmim
from jaxrobust.attacks.nim import vnim as vnim
from jaxrobust.attacks.noise import uniform_noise as uniform_noise
from jaxrobust.attacks.one_pixel import one_pixel as one_pixel
from jaxrobust.attacks.patch import patch as patch
from jaxrobust.attacks.patch import patched as patched
from jaxrobust.attacks.patch import universal_patch as universal_patch
from jaxrobust.attacks.pgd import bim as bim
from jaxrobust.attacks.pgd import fgsm as fgsm
from jaxrobust.attacks.pgd import pgd as pgd
from jaxrobust.attacks.pgd_0 import pgd_0 as pgd_0
from jaxrobust.attacks.pixle import pixle as pixle
from jaxrobust.attacks.rays import rays as rays
from jaxrobust.attacks.recolor import recolor as recolor
from jaxrobust.attacks.registry import get as get
from jaxrobust.attacks.registry import hyperparameters as hyperparameters
from jaxrobust.attacks.registry import names as names
from jaxrobust.attacks.rotate_translate import rotate_translate as rotate_translate
from jaxrobust.attacks.rotate_translate import (
    rotate_translate_gradient as rotate_translate_gradient,
)
from jaxrobust.attacks.sigma_zero import sigma_zero as sigma_zero
from jaxrobust.attacks.simba import simba as simba
from jaxrobust.attacks.sparse_rs import sparse_rs as sparse_rs
from jaxrobust.attacks.sparsefool import sparsefool as sparsefool
from jaxrobust.attacks.spsa import spsa as spsa
from jaxrobust.attacks.square import square as square
from jaxrobust.attacks.stadv import stadv as stadv
from jaxrobust.attacks.surfree import surfree as surfree
from jaxrobust.attacks.surrogates import ensemble as ensemble
from jaxrobust.attacks.surrogates import mean_loss as mean_loss
from jaxrobust.attacks.surrogates import straight_through as straight_through
from jaxrobust.attacks.surrogates import with_transform as with_transform
from jaxrobust.attacks.universal import perturbed as perturbed
from jaxrobust.attacks.universal import uap as uap
from jaxrobust.attacks.universal import universal as universal
from jaxrobust.attacks.zoo import zoo as zoo
