"""Examples in, batches out: sources, host pipeline, device augmentation."""
