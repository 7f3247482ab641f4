"""Health checks as they are carried out; thresholds and verdicts live in `hsu_agent.planning.health`."""
