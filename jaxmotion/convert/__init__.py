"""Public weights in and out: rules that pair the names of PyTorch checkpoints with the paths of our parameters."""
