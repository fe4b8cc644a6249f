"""Training of any task that has a loss: state, step, loop, checkpoints, log."""
