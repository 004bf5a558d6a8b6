"""What artifacts hold: the names of their files, and the content of those that one step writes and another reads.

Each kind has a module. A writer of a file builds its TypedDict. A reader calls its `read_...`, which refuses a missing
or damaged file, or one of another shape, and names its path and the remedy. A NotRequired key does not apply
everywhere, or older artifacts lack it.
"""
