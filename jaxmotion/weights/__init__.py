"""Public checkpoints and the parameters of `models`, in both directions."""
