"""To come: testing."""
