"""Simulated jets: hard process and shower, detector, jets, file; one module per step."""
