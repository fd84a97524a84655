"""Checkpoints on disk: the one package that knows orbax.

A work directory holds `checkpoints/STEP/{state,variables,config,layout,sums}`: the
whole training state to resume from, the variables to evaluate (averaged weights where
training keeps an average), the config, so that one step's folder can be loaded on its
own, the layout of the run that wrote it (processes, devices), and checksums. What can
be told of them without orbax is in `runtime.checkpoint_folder`.
"""

from jaxrobust.checkpoints.checkpointer import Checkpointer as Checkpointer
from jaxrobust.checkpoints.stored import RESULTS as RESULTS
from jaxrobust.checkpoints.stored import evaluated as evaluated
from jaxrobust.checkpoints.stored import exists as exists
from jaxrobust.checkpoints.stored import load as load
from jaxrobust.checkpoints.stored import load_variables as load_variables
from jaxrobust.checkpoints.stored import save_variables as save_variables
from jaxrobust.checkpoints.stored import verify as verify
from jaxrobust.runtime.checkpoint_folder import WHICH as WHICH
from jaxrobust.runtime.checkpoint_folder import usable as usable
