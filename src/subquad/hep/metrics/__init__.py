"""Metrics and curves of jet classification."""
