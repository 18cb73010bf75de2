//! Checksums and segmentation for receivers that cannot do them.
