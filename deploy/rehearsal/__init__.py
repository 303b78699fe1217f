"""A rehearsal of the shipped layout on hosts that are network and mount namespaces of this machine."""
