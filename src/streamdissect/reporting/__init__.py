"""The report of a run: pages that open from the disk, without a server and without the network."""
