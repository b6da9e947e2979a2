"""One file per recipe; see README.md."""
