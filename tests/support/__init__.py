"""Helpers that several tests share, and programs that tests start as processes of their own."""

from pathlib import Path

SUPPORT = Path(__file__).parent
"""The folder of the programs."""
