"""Formats numbers, tables, paths and plots for display."""
