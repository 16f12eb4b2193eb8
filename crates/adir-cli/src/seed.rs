//! Seeds as arguments: a number, or one to be drawn.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;

/// A seed that was given, or drawn for `-1` or `random`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seed {
    /// The number, which repeats the run.
    pub value: u64,
    /// Whether it was drawn.
    pub drawn: bool,
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            // 32 bits: every program that reads a record can hold them.
            "-1" | "random" => Ok(Self { value: RandomState::new().hash_one(text) >> 32, drawn: true }),
            _ => {
                let value = text.parse().map_err(|_| "expected a whole number, or -1 to draw one")?;
                Ok(Self { value, drawn: false })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_and_minus_one_draws() {
        let given = |text: &str| text.parse::<Seed>();
        assert_eq!(given("7").unwrap(), Seed { value: 7, drawn: false });
        assert_eq!(given("18446744073709551615").unwrap().value, u64::MAX);
        assert!(["-2", "x", "1.5", ""].iter().all(|text| given(text).is_err()));
        let drawn: std::collections::BTreeSet<u64> = (0..20).map(|_| given("-1").unwrap().value).collect();
        assert!(given("random").unwrap().drawn && drawn.len() > 15, "{drawn:?}");
    }
}
