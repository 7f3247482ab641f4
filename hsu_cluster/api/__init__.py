"""The HTTP API that every master serves from the store."""
