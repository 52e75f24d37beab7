"""Runnable examples. Not installed with the package."""
