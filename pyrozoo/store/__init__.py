"""Formats on disk: tensors, batches, tables larger than memory."""
