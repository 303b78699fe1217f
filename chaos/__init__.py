"""Attacks on the whole product, and what came of them. `python -m chaos --help`."""
