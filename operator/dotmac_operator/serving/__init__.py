"""What the operator shows of itself: metrics, health, and diagnostics of instances for the facade."""
