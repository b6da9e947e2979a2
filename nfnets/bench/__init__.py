"""What things cost: rates measured alternately in one run, and their report."""
