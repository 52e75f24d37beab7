"""Backbones for Detectron2 from timm."""
