"""HTML pages, console tables and statistics."""
