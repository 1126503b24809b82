"""Search for variants under constraints with a fitted model."""
