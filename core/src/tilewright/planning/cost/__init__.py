"""Values of the slot `cost`: predicted seconds of tile choices."""
