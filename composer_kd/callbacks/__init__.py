"""What a run carries along: what it cost, what it logged, which phase it is in."""
