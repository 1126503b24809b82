"""Taggers side by side: scores of ours and of others, their figures, pictures, and the page."""
