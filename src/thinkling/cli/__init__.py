"""What a person types. Parsing loads no torch, no numpy and no settings classes: each command imports what it needs."""
