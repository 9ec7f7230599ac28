"""The recipes: extract, capture, score, merge, and what they share."""
