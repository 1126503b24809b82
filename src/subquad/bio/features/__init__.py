"""Numeric features of sequences and residues."""
