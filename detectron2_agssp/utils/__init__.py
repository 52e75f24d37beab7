"""Small helpers shared by the rooms."""
