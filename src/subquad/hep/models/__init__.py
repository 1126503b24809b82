"""Taggers: presets, training, gradient boosting, the scikit-learn estimator."""
