"""Where weights come from: files, folders, the hub's cache and memory, behind one `Source`."""
