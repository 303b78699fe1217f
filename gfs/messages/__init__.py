"""Everything that crosses a wire or reaches the operation log, as frozen msgspec structs.

Fields are only ever added, with a default; none is renamed or given another type.
"""
