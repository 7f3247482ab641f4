"""The command line: arguments to client calls, documents to text. Rendering is pure (`render*`, `layout`, `encode`).

Imports of the client and of the programs stand inside the functions that need them, so that `--help` and usage
errors answer at once.
"""
