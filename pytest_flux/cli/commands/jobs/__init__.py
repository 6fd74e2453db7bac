"""`flux job`, and commands about jobs that have been submitted."""
