"""Run folders: open or resume, history, serialization."""
