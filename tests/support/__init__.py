"""Helpers that several test files share, and programs that tests start as processes of their own."""
