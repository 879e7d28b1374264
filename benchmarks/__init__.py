"""Measures what composer_kd costs, next to the bounds that its parts set; uses its public names only."""
