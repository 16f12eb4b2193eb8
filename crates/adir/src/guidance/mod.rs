//! Guidance: what keeps each sampling step in agreement with y.
