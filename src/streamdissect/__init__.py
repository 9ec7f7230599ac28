"""Network Dissection, streaming and out of core."""
