"""Use of resources by workers: samples, history, and what is done about too much of it."""
