"""Training, validation and test rows, and the leakage between them."""
