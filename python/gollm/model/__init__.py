"""The decoder: its configuration, its layers, and how they are put together."""
