"""Committee machines: message passing, focusing belief propagation, and their local entropy."""
