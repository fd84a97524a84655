"""What the configs of one method have in common: each file builds on `config.base`."""
