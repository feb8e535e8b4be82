"""The commands, a file each: options, one call into the stages, what is printed. Heavy imports stay inside them."""
