"""The workflow of ``composer-kd sweep``: searches for the best settings of a run, with Optuna or W&B's server."""
