"""Pure torch mathematics: no input or output, no models, no configuration."""
