"""The plots of a report: each ``draw_*`` function draws one, or returns None without data for it."""
