"""The edge: the only home of pydantic, PyYAML and msgpack."""
