"""Which rows are learned from, which decide, and which are the test."""
