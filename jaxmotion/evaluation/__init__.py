"""Evaluations of a trained run, and the report that shows them."""
