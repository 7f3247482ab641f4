"""PURE values and rules: no clock, no randomness, no I/O, no third-party library."""
