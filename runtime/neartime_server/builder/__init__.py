"""The room `builder`."""
