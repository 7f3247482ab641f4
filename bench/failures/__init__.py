"""What `bench/ha.py` measures: faults of a fleet of real processes, and how long until all is well again."""
