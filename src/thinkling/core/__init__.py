"""What every floor above may lean on: settings, errors, files, run folders, statistics. Imports nothing of ours."""
