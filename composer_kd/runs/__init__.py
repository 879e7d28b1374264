"""Builds, trains, saves and evaluates a run, and reads run folders."""
