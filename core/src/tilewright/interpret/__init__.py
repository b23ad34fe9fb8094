"""Two meanings of the tile IR on NumPy: of tensors (vectorised) and of tasks (legal random orders, poison)."""
