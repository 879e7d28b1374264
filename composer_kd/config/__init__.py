"""Reads YAML files into checked dataclasses, and builds objects from them."""
