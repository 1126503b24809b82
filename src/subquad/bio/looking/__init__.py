"""What a fitted model says: reports, scans, epistasis."""
