//! Names that the server gives: no text of a client becomes a part of a path.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::Fault;

/// 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(u128);

impl Id {
    /// One that nobody can guess.
    ///
    /// # Errors
    /// Where the system has no random numbers.
    pub fn drawn() -> Result<Self, Fault> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|e| Fault::failed(format!("no random numbers: {e}")))?;
        Ok(Self(u128::from_le_bytes(bytes)))
    }

    /// 32 bits of it, a number that every program that reads a record can hold.
    pub fn word(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for Id {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let number = digits.then(|| u128::from_str_radix(&text, 16).ok()).flatten();
        number.map(Self).ok_or("no id: expected 32 hexadecimal digits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_server_writes_is_an_id() {
        let id = Id::drawn().unwrap();
        assert_eq!(Id::try_from(id.to_string()), Ok(id));
        assert_eq!(Id::try_from("0".repeat(32)).unwrap().to_string(), "0".repeat(32));
        for text in ["", "..", "+0000000000000000000000000000001", "0000000000000000000000000000000A", &"0".repeat(33)]
        {
            assert!(Id::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
