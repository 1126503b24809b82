"""Analyses of tables and landscapes: audit, epistasis, variance by order."""
