"""Perplexity, tasks, passkey retrieval, speed and memory, each beside its controls."""
