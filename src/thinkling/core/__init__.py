"""What every floor above may lean on: settings, errors, files, run folders, randomness, statistics. Imports nothing of ours."""
