"""The room `bus`."""
