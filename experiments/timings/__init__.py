"""Times of key operations, kept by `asv <https://asv.readthedocs.io>`_ from commit to commit; see CONTRIBUTING.md."""
