"""Mathematics on coordinates; no files, no settings."""
