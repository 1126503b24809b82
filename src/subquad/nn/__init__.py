"""Layers and models: modules with parameters that call `subquad.ops`. Import torch and jaxtyping only."""
