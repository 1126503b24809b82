"""Parameters around the operators of `subquad.ops`: layers and models that need torch and jaxtyping only."""
