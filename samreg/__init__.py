"""samreg: registration by self-supervised anatomical embeddings."""
