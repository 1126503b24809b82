"""Readers that are called with damaged and drawn input."""
