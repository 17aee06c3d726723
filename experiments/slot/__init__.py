"""Slots: minutes on an accelerator without a network.

A bundle holds everything that the machine lacks (the tree, wheels, images). From it, a slot checks
the library on the device, times it, and then trains what the paper's table lacks, in the order of
its value, until the time is up. `rehearse` does the same on a CPU at toy size.
"""
