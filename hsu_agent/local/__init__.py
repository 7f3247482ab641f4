"""One host without a cluster: orders out of a file, and a socket to ask and steer the agent."""
