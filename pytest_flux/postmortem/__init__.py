"""Read what an instance left behind, a dump archive or a statedir, without an instance."""
