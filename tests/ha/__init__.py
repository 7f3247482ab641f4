"""Whole clusters in containers: the faults of docs/failures.md, with the store observed from outside."""
