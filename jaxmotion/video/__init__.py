"""Clips as arrays: which frames to take, how alike two frames are, how fast a clip moves."""
