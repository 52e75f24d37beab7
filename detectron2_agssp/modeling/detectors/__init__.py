"""Detectors that Detectron2 has no yaml for."""
