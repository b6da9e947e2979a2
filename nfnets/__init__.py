"""Normalizer-Free Networks in JAX and Haiku."""
