"""From the tile IR's expressions to TIR. Shared by all emitters."""
