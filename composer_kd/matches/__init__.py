"""Matches: what is compared between student and teachers, and the distillation loss built from it."""
