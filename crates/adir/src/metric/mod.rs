//! Full-reference and agreement metrics.
