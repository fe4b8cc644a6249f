"""What a trained run can do, measured and shown."""
