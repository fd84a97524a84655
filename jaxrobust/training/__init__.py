"""The training program: config, optimiser, state, one jitted step, the loop."""

from jaxrobust.runtime import workdir as workdir
