"""Operators as functions on tensors: the definition of each and cheaper forms that equal it. Imports torch only."""
