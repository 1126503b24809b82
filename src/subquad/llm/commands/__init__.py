"""The commands of `subquad llm`, one module each."""
