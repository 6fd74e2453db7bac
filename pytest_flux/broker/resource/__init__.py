"""The resources of an instance: what brokers find, what configuration says, what is drained, who is online."""
