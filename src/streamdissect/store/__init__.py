"""Runs on disk: directories, claims, commits, activations, results, tables."""
