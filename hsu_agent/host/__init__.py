"""What the operating system does for the agent, behind one protocol."""
