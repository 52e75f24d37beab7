"""Defects drawn into images, with their masks, and the scorer that learns to find them."""
