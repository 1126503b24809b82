"""Metrics and curves of taggers."""
