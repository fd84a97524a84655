"""What a program needs of the machine: files, locks, caches; below all other parts."""
