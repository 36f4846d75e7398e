"""What every stage uses and no stage owns."""
