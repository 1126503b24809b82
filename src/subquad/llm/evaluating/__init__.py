"""What linear attention costs a language model, always beside its controls. Importing this loads nothing heavy."""
