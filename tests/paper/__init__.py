"""What the GFS paper promises, and the tests that keep it. `python -m tests.paper` prints the table."""
