"""Embeddings and scores of sequences by language models of transformers."""
