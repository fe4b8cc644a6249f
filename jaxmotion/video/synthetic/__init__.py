"""Clips drawn from photographs, with exactly known motion."""
