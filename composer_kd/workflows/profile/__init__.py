"""The workflow of ``composer-kd profile``: measures how the time of a training step divides into phases."""
