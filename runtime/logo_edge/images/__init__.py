"""Images from files, bytes and drawings, within limits."""
