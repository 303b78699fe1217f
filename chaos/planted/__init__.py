"""Bugs that are put into the product on purpose, one at a time, to see that the attacks notice each.

`bug` says what one is, `masters`, `leases`, `chunkservers` and `clients` hold them, `all_bugs` lists them.
gfs knows nothing of any of this: a bug replaces functions of a running program from outside.
"""
