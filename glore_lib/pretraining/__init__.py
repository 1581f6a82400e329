"""Pre-training of the small base model that ships with the library."""
