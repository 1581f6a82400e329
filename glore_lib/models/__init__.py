"""Load, train and save models; turn text into tokens."""
