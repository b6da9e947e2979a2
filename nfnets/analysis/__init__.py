"""A network before training: its size, its signal, its numerics."""
