//! The variables that say how the Hub is reached, and by whom.

use std::env;

use adir::{Error, Result};

use super::environment::{folder, hugging_face};

/// The value of a variable that is set and not empty.
pub fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// What a variable that is a switch says.
pub fn is_on(name: &str) -> bool {
    variable(name).is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.trim().to_uppercase().as_str()))
}

/// Whether the user forbids connections to the Hub.
pub fn is_offline() -> bool {
    is_on(if variable("HF_HUB_OFFLINE").is_some() { "HF_HUB_OFFLINE" } else { "TRANSFORMERS_OFFLINE" })
}

/// The address of the Hub.
///
/// # Errors
/// [`Error::Config`] if `HF_ENDPOINT` is no address.
pub fn endpoint() -> Result<String> {
    let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
    let endpoint = endpoint.trim().trim_end_matches('/').to_owned();
    if endpoint.starts_with("https://") || endpoint.starts_with("http://") {
        return Ok(endpoint);
    }
    Err(Error::config(format!("HF_ENDPOINT {endpoint}: expected an address that begins with https:// or http://")))
}

/// The user's token: `HF_TOKEN`, else the file that `hf auth login` writes.
///
/// # Errors
/// [`Error::Config`] if it holds what no token holds.
pub fn token() -> Result<Option<String>> {
    let file = || folder("HF_TOKEN_PATH").or_else(|| Some(hugging_face()?.join("token")));
    let stored = || std::fs::read_to_string(file()?).ok();
    let named = variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN"));
    let found = match is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        true => None,
        false => named.or_else(stored),
    };
    let token = found.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
    match token {
        Some(token) if !token.bytes().all(|c| c.is_ascii_graphic()) => {
            Err(Error::config("the token in HF_TOKEN or in the token file is none: it has spaces or odd characters"))
        }
        token => Ok(token),
    }
}
