"""The method of the paper, from students to tables."""
