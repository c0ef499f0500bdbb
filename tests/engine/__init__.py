"""The inside of the engine: each part by itself, most without an event loop."""
