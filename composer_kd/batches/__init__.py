"""What a batch says: labels, masks, counts, and what of it a microbatch holds."""
