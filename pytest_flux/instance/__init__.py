"""A running instance as an object. Nothing in here knows pytest.

Importing this package alone is cheap: each run of pytest does it, whether it uses Flux or not.
"""
