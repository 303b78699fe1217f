"""The cluster's tree as a directory of this machine."""
