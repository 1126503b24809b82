"""Attention transfer, LoRA, and how both fit into memory."""
