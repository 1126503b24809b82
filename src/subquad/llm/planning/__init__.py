"""Cost estimates of linearizing a model."""
