"""What a network is before it is trained: its size, its signal, its rules."""
