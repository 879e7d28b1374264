"""Comparisons as people read them: pages, tables, plots."""
