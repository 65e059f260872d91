"""To come: admin."""
