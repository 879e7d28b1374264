"""The workflow of ``composer-kd export``: exports the student of a run, with a model card."""
