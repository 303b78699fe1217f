"""GFS under names that other software knows: fsspec and web gateways. All of it is a client like others."""
