"""gollm's own `*.golm` files."""
