"""What both programs need of the machine: clock, tasks, logging, TLS, metrics."""
