"""Encoding clips once, into a prepared set (`jaxmotion.data.prepared`)."""
