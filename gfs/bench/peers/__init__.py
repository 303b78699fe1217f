"""Other file systems run beside ours to be measured, one a module. What is measured is compare's."""
