"""The web page: three tabs that start the commands of subquad as jobs and show their reports."""
