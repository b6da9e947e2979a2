"""Every recipe is one file; see README.md."""
