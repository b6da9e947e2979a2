"""Reports as one self-contained page: markdown, pictures, style."""
