"""Tests of the text forms: manifest, settings, YAML and JSON."""
