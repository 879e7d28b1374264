"""Numbers, tables, paths and plots as people see them."""
