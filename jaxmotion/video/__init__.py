"""Clips as arrays: decoding and encoding, frame selection, similarity of frames, measures of motion."""
