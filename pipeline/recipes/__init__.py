"""The recipes that come with ci2p; each TOML states at its top the command that runs it and what it reached."""
