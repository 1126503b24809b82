"""The commands of `subquad bio`, one module each."""
