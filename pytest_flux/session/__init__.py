"""What stands behind the fixtures: instances made ready, kept pristine, shared, taken apart, and reported on."""
