"""The master: API, leader election, planning, node hub, and the command line `hsu-cluster`."""
