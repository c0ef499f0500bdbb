"""The standalone process: configuration, wiring, life and command line."""
