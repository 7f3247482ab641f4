"""How a host's service manager is to run the agent: the text of the unit, and the command that writes it."""
