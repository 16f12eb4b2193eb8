//! Units of the images inside the library.

/// Standard deviation in [-1, 1] units.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct NoiseLevel(pub f64);

impl NoiseLevel {
    /// From 8-bit grey levels: `from_255(10.0)` is the paper's sigma = 10, 0.0784 in [-1, 1] units.
    pub fn from_255(sigma: f64) -> Self {
        Self(sigma * 2.0 / 255.0)
    }

    /// In 8-bit grey levels.
    pub fn to_255(self) -> f64 {
        self.0 * 255.0 / 2.0
    }
}
