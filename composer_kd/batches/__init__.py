"""Reads batches: labels, valid positions, their number in the whole batch, and the contents of one microbatch."""
