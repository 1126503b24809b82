"""Lyra, its baselines, their ensemble, and the scikit-learn estimators."""
