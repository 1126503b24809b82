"""All models on many tables, counted."""
