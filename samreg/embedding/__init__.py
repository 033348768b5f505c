"""Anatomical embeddings: from an image to a vector per voxel."""
