"""A small plugin of Tilewright, as a third party would write it."""
