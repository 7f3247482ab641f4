"""The shell of the elected master: keeps a view, runs the planners, applies plans, talks to the nodes."""
