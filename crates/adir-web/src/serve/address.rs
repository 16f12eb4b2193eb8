//! Parts of addresses, refused in the server's own form.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::{Fault, Kind};

/// What the path of an address holds.
pub struct InPath<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for InPath<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let read = Path::from_request_parts(parts, state).await;
        read.map(|Path(found)| Self(found)).map_err(|_| Fault::not_found("address"))
    }
}

/// What follows its question mark.
pub struct InQuery<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for InQuery<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let read = Query::from_request_parts(parts, state).await;
        let wrong = |text: String| Fault::new(StatusCode::BAD_REQUEST, Kind::Config, format!("the address: {text}"));
        read.map(|Query(found)| Self(found)).map_err(|refused| wrong(refused.body_text()))
    }
}
