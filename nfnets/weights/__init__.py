"""Weights in and out: published files, files of ours, timm, folding."""
