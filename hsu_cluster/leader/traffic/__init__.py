"""Traffic: keeps load balancers at what the plans want, and records what they confirmed."""
