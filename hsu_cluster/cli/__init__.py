"""The command line: arguments become client calls; rendering is pure."""
