"""Gateways: programs that give the cluster's files to software that speaks HTTP. Each is one client of it."""
