"""Composer callbacks that measure the cost of a run, log its history, and time the phases of its steps."""
