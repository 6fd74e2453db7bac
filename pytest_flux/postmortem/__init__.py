"""What an instance left behind, a dump archive or a statedir: reading it, without an instance."""
