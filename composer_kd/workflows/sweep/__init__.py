"""Searches for the best settings of a run: W&B's sweep format, offline with Optuna or on a W&B server."""
