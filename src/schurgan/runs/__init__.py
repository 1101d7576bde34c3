"""The folder of a run: its options, its records and its status, read without torch."""
