"""What a tagger's scores depend on: gradients, permutation importance, event displays."""
