//! What the server answers where it does not do what was asked.

use std::path::Path;

use adir::Error;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A setting is wrong, or does not fit the picture.
    Config,
    /// A picture is damaged or of the wrong kind.
    Input,
    /// The weights.
    Model,
    /// It does not fit the machine, or a limit.
    Limits,
    /// A value became infinite or none.
    Numerical,
    /// The device failed.
    Backend,
    /// The server's disk.
    Io,
    /// The queue is full.
    Busy,
    /// Nobody may ask this from there.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// It cannot be done now.
    Conflict,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Told {
    /// Whose fault it is.
    pub fault: Kind,
    /// What is wrong, in words.
    pub message: String,
    /// What to do about it, where the message does not say.
    pub hint: Option<String>,
}

/// An answer to a request that failed.
#[derive(Debug, Clone)]
pub struct Fault {
    status: StatusCode,
    /// What is wrong.
    pub told: Told,
}

#[derive(Serialize, ToSchema)]
pub struct Answer {
    error: Told,
}

impl Fault {
    /// With that status.
    pub fn new(status: StatusCode, fault: Kind, message: impl Into<String>) -> Self {
        Self { status, told: Told { fault, message: message.into(), hint: None } }
    }

    /// What the client sent is wrong.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, Kind::Config, message)
    }

    /// The server failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, Kind::Io, message)
    }

    /// There is no such `what`.
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, Kind::NotFound, format!("no such {what}"))
    }

    /// An error of the library, with files called by the names that the client knows.
    pub fn of(error: &Error, names: &[(&Path, &str)]) -> Self {
        let (status, fault) = match error {
            Error::Config(_) => (StatusCode::UNPROCESSABLE_ENTITY, Kind::Config),
            Error::Input { .. } => (StatusCode::UNPROCESSABLE_ENTITY, Kind::Input),
            Error::Limits(_) | Error::TooLarge { .. } => (StatusCode::UNPROCESSABLE_ENTITY, Kind::Limits),
            Error::Model { .. } => (StatusCode::INTERNAL_SERVER_ERROR, Kind::Model),
            Error::Numerical(_) => (StatusCode::INTERNAL_SERVER_ERROR, Kind::Numerical),
            Error::Backend(_) => (StatusCode::INTERNAL_SERVER_ERROR, Kind::Backend),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, Kind::Io),
        };
        let hint = match error {
            Error::Limits(_) => Some("take fewer samples or a smaller picture"),
            Error::TooLarge { .. } => Some("cut the picture into parts, or scale it down"),
            _ => None,
        };
        let message = names.iter().fold(error.to_string(), |text, (path, name)| match path.to_str() {
            Some(path) if !path.is_empty() => renamed(&text, path, name),
            _ => text,
        });
        Self { status, told: Told { fault, message, hint: hint.map(Into::into) } }
    }
}

/// `text` with `name` in place of `path`, where that is a path or begins one: a folder `fo` is not in `for`.
fn renamed(text: &str, path: &str, name: &str) -> String {
    let of_path = |c: char| c.is_alphanumeric() || "._-/".contains(c);
    let (mut out, mut done) = (String::with_capacity(text.len()), 0);
    for (at, _) in text.match_indices(path) {
        let (before, after) = (&text[..at], &text[at + path.len()..]);
        let ends = after.starts_with('/') || !after.starts_with(of_path) || after.starts_with(". ") || after == ".";
        if ends && !before.ends_with(of_path) {
            out.push_str(&text[done..at]);
            out.push_str(name);
            done = at + path.len();
        }
    }
    out.push_str(&text[done..]);
    out
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::of(&error, &[])
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        (self.status, Json(Answer { error: self.told })).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_paths_are_called_by_their_names() {
        let text = "fo/x.png: has colours, for example fo. Not .fo, fo.png or fo2";
        assert_eq!(renamed(text, "fo", "g1"), "g1/x.png: has colours, for example g1. Not .fo, fo.png or fo2");
        assert_eq!(renamed("./x.png: deblur:box:5 or a.png.", ".", "here"), "here/x.png: deblur:box:5 or a.png.");
        assert_eq!(renamed("/a b/c: is empty", "/a b/c", "archive"), "archive: is empty");
    }
}
