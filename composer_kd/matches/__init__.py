"""What is compared, and how it becomes one loss."""
