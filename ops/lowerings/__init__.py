"""Ways to compute the op."""
