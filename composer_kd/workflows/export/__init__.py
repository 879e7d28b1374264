"""Exports the student of a run, with its model card."""
