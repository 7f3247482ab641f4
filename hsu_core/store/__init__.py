"""Where desired and observed state lives: one protocol, three backends, one contract suite."""
