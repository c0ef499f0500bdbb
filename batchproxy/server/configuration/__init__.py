"""The rooms of `batchproxy.server.config`: from YAML, environment and flags to the settings objects."""
