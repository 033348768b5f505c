"""Data sets, methods, the runner, tables and plots; and a phantom that needs no scans."""
