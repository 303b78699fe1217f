"""What clients do to a cluster under test; `interface` says what a workload is."""
