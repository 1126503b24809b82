"""Commands that are killed, short of disk space or started twice: nothing is lost, and the next start resumes."""
