"""Layer K: real gfs programs in network namespaces, hurt by the kernel. Needs root; see `tools`."""
