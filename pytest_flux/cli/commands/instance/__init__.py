"""Commands about the instance and its brokers."""
