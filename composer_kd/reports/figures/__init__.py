"""The plots of a report: each function draws one, or returns None where there is nothing to draw."""
