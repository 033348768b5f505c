"""What the Slicer module SamReg does beside Slicer: nothing here imports it."""
