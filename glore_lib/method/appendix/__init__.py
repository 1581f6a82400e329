"""method/appendix."""
