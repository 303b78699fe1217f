"""The vocabulary of faults, over a testbed's powers: `registry` lists them, `interface` says what one is."""
