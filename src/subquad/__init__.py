"""Sub-quadratic operators for biological sequences (Lyra), language models (LoLCATs) and jets (PCN)."""

__version__ = "0.1.0"
