"""From files of jets to batches."""
