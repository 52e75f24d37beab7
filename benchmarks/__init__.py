"""Measurements: what the plugin brings, and how fast it is. Not installed with the package."""
