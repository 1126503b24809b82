"""From a file to a dataset: tables, alphabets, variants, targets."""
