"""Sources of clips, and batches of them."""
