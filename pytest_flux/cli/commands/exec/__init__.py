"""Commands that run processes next to brokers."""
