"""What every method has to keep, checked by enumeration over a small vocabulary."""
