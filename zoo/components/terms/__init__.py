"""Terms: the summands of an objective."""
