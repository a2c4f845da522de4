"""Packed images: RecordIO files, their manifest, packing and verification."""
