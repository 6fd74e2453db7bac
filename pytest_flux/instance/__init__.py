"""A running instance as an object. Nothing in here knows pytest."""
