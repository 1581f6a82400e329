"""The experiments of the appendix, one module per notebook."""
