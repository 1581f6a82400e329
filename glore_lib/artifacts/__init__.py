"""Intermediate results on disk: store, keys, locks and manifests."""
