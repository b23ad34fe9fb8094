"""Values of the slot `control_place`: where loops and branches run."""
