//! Samplers as iterators of steps that the caller drives.
