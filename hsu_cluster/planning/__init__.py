"""PURE decisions of the master: view in, plan with reasons out; no clock, no I/O."""
