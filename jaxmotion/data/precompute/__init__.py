"""Latents and text features of clips, encoded once into a set that training reads."""
