"""Runs described by a YAML file: checked, built, trained, evaluated."""
