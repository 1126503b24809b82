"""Metrics, bootstrap intervals and conformal intervals."""
