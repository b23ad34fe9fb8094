// Stands in for the CUDA header of this name; everything is in emulator.h.
