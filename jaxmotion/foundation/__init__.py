"""Foundations: types, errors, atomic files and configs as JSON; imports nothing of networks or motion."""
