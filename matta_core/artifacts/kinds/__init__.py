"""What artifacts hold: the names of their files, and the content of those that one step writes and another reads.

A module for each kind. Who writes a file builds its TypedDict. Who reads one calls its `read_...`, which refuses a file
that is missing, damaged or of another shape with its path and the remedy. A key that is NotRequired does not apply
everywhere, or artifacts lack it that were made before it was recorded.
"""
