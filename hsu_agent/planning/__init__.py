"""PURE decisions of the agent: what to start, stop, restart and when; no clock, no I/O."""
