"""What all stages share: atomic files, locks, folders, devices, batches."""
