"""The commands about jobs, in whole instances."""
