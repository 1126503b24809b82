"""Search for CRISPR guides on both strands, and their off-targets."""
