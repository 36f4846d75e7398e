"""What every stage shares: files that are whole or not there, locks, folders, devices, batches."""
