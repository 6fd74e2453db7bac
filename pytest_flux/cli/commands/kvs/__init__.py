"""`flux kvs`, by what its subcommands do."""
