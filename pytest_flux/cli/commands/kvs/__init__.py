"""`flux kvs`: one module for each group of subcommands."""
