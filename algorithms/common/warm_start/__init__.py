"""The supervised start of a policy: demonstrations, then rounds of its own successful episodes."""
