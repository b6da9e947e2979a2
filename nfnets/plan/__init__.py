"""A training step foreseen: compiled for TPUs elsewhere, or estimated."""
