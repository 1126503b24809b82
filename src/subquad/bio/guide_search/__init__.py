"""Search for CRISPR guides, and their off-targets."""
