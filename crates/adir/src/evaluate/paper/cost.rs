//! What a row costs, before it is made: products from the networks' descriptions, memory from the engine's plans.

/// What one image of a row takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Products that networks add up, see [`Network::products`](crate::models::Network::products).
    pub products: u64,
    /// Bytes of memory at most.
    pub memory: u64,
}

impl Cost {
    /// Hours with so many products a second.
    pub fn hours(&self, speed: f64) -> f64 {
        self.products as f64 / speed / 3600.0
    }
}
