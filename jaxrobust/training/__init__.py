"""The training program: config, optimiser, state, one jitted step, the loop."""
