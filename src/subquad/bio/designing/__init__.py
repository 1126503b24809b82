"""New variants and CRISPR guides from a fitted model."""
