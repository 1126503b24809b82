"""Saved runs of each kind that every later version must load."""
