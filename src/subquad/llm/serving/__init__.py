"""A linearized model answers: many requests at once over HTTP, or one person in the terminal."""
