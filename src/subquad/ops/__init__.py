"""Functions on tensors: each operator's definition and the cheaper forms that are equal to it. Imports torch only."""
