"""Programs as a user would write them, on the public SDK alone; tests run them against real clusters."""
