"""The room `executors`."""
