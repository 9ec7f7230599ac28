"""What is counted, and what follows from the counts: field maps, weights, planes, counters, IoU, results."""
