"""Whole models beside other engines: graphs, cells, counts of kernels and bytes, measurements."""
