"""The contract between `hsu-cluster` and `hsu-agent`: values, wire forms, store.

Holds nothing that only one of the two programs needs. Layers: store > wire > model.
"""
