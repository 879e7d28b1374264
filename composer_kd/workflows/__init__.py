"""The workflow behind each command of the command line; the workflows are independent of one another."""
