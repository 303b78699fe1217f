"""What may be drawn for a run, by name: plain data. `interface` says what a scenario is."""
