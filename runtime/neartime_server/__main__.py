"""To come: __main__."""
