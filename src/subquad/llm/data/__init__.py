"""From text files to packed token sequences."""
