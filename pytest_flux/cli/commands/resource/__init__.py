"""Commands about resources and queues."""
