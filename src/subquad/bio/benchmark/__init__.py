"""Many tasks as resumable jobs."""
