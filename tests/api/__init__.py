"""Tests of the API: a real server on a free port, a real store, and a fake of the leader side."""
