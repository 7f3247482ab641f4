"""The output of workers: captured without ever blocking them, rotated, read."""
