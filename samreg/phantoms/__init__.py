"""Synthetic chests and follow-up scans whose true correspondence is known everywhere."""
