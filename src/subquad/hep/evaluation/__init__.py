"""Scores of trained taggers and of external programs."""
