"""Backbones by yaml: timm's models, Swin, plain ViTs and CSPDarknet."""
