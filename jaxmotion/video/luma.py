"""Weights of red, green and blue in the grey of a picture. Source: ITU-R BT.601."""

LUMA = (0.299, 0.587, 0.114)
