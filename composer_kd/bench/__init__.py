"""What a model costs to run, on every device, backend and precision of this machine."""
