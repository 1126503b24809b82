"""The commands of `subquad hep`, one module each."""
