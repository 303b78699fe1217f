"""A small server with Toxiproxy's API and its seven toxics, seeded, for machines without the real one."""
