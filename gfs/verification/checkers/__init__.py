"""One property of a history each; `interface` says what a checker is."""
