"""What we measure, and against what; each comparison within one run."""
