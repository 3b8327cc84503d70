"""Generation: drawing tokens one after the other from a decoder."""
