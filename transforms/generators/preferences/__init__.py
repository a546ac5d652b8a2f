"""What people and criteria prefer, and which of two texts fits it: shared by twins and personas."""
