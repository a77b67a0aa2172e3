"""What happened: metrics, explanations, sensitivity, invariants, pictures of masks."""
