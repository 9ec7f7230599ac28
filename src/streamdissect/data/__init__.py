"""Images and labels: one interface, one module for each source."""
