"""From a YAML file to checked dataclasses, and from those to objects."""
