"""From a file to inputs and targets: tables, variants, letters, columns."""
