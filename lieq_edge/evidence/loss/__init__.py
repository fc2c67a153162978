"""Loss weights, and the losses that they predict."""
