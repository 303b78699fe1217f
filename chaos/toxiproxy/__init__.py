"""Layer T: real gfs programs on loopback, every link between them through a Toxiproxy server."""
