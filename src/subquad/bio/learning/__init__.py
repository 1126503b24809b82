"""The nets, their training, the stack of all models, and scikit-learn estimators."""
