"""What each command does; none knows another."""
