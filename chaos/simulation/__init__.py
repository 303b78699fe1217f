"""Layer S: the real programs in one process, on a loop, a network, disks and clocks that one seed tells."""
