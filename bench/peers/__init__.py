"""Supervisors of other people, driven side by side with ours."""
