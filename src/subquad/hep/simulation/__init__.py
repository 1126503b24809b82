"""Simulation of jets: generator, detector, jet finding, file; one module per step."""
