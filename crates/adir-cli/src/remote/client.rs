//! Requests to a server of a gallery: short JSON texts, and images.

use std::fmt;
use std::thread::sleep;
use std::time::Duration;

use adir::{Error, Result};
use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::hub::address::Origin;
use crate::hub::{http, proxy};

/// How long a server may say nothing.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a request may take as a whole.
const WHOLE: Duration = Duration::from_secs(120);
/// Most bytes of an answer.
const MOST: u64 = 32 << 20;
/// Most bytes of an image.
const MOST_OF_IMAGE: u64 = 64 << 20;
/// Most redirects to an image.
const REDIRECTS: usize = 10;
/// Pauses before a request that failed in passing is tried again.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// A key that goes to one server in a header.
pub struct Key {
    pub header: &'static str,
    /// The variable that it comes from.
    pub variable: &'static str,
    value: Option<String>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("variable", &self.variable).finish_non_exhaustive()
    }
}

impl Key {
    /// That of a variable, if it is set.
    ///
    /// # Errors
    /// [`Error::Config`] if it holds what no key holds.
    pub fn of(header: &'static str, variable: &'static str) -> Result<Self> {
        let value = crate::hub::access::variable(variable).map(|value| value.trim().to_owned());
        match value {
            Some(value) if !value.bytes().all(|c| c.is_ascii_graphic()) => {
                Err(Error::config(format!("the key in {variable} is none: it has spaces or odd characters")))
            }
            value => Ok(Self { header, variable, value }),
        }
    }
}

/// What asks a server, and others for images.
pub struct Client {
    agent: Agent,
    /// The gallery, for messages.
    gallery: String,
    key: Option<Key>,
}

/// Why a request failed.
enum Failure {
    /// The next try may succeed.
    Passing(String),
    Lasting(Error),
}

impl Client {
    /// Opens no connection.
    ///
    /// # Errors
    /// [`Error::Config`] for a variable that holds what it cannot.
    pub fn new(gallery: &str, key: Option<Key>) -> Result<Self> {
        let agent = http::agent(SILENCE, Some(WHOLE))?;
        Ok(Self { agent, gallery: gallery.to_owned(), key })
    }

    /// What the server answers, as JSON: to a question, or to an address alone.
    ///
    /// # Errors
    /// [`Error::Input`] that names the gallery, if it does not answer or answers with something else; [`Error::Config`] if it
    /// wants a key.
    pub fn json(&self, url: &str, question: Option<&Value>) -> Result<Value> {
        let mut pauses = PAUSES.iter();
        loop {
            match (self.once(url, question), pauses.next()) {
                (Ok(answer), _) => return Ok(answer),
                (Err(Failure::Passing(_)), Some(pause)) => sleep(*pause),
                (Err(Failure::Passing(message)), None) => {
                    let tries = PAUSES.len() + 1;
                    return Err(self.fault(format!("{message}; gave up after {tries} tries")));
                }
                (Err(Failure::Lasting(error)), _) => return Err(error),
            }
        }
    }

    /// A fault of the server.
    pub fn fault(&self, message: impl Into<String>) -> Error {
        Error::input(&self.gallery, message)
    }

    fn once(&self, url: &str, question: Option<&Value>) -> Result<Value, Failure> {
        let lasting = |message: String| Failure::Lasting(self.fault(message));
        let sent = match question {
            None => {
                let request = self.agent.get(url).config().proxy(through(url).map_err(Failure::Lasting)?).build();
                self.with_key(request).call()
            }
            Some(question) => {
                let request = self.agent.post(url).config().proxy(through(url).map_err(Failure::Lasting)?).build();
                let body = serde_json::to_vec(question).map_err(|e| lasting(format!("cannot be asked: {e}")))?;
                self.with_key(request).header("content-type", "application/json").send(&body[..])
            }
        };
        let response = sent.map_err(|e| self.failure(&e))?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(self.refusal(status, response));
        }
        let bytes = response.into_body().into_with_config().limit(MOST).read_to_vec().map_err(|e| match e {
            ureq::Error::BodyExceedsLimit(_) => lasting(format!("answers with more than {MOST} bytes")),
            e => self.failure(&e),
        })?;
        serde_json::from_slice(&bytes).map_err(|e| lasting(format!("answers with what is no JSON: {e}")))
    }

    fn with_key<T>(&self, request: ureq::RequestBuilder<T>) -> ureq::RequestBuilder<T> {
        match self.key.as_ref().and_then(|key| Some((key.header, key.value.as_ref()?))) {
            Some((header, value)) => request.header(header, value),
            None => request,
        }
    }

    /// A request without an answer.
    fn failure(&self, error: &ureq::Error) -> Failure {
        match error {
            ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                Failure::Lasting(self.fault(format!("cannot be reached: {error}")))
            }
            ureq::Error::Io(_) => Failure::Passing(format!("cannot be reached: {error}")),
            // Another try would wait as long.
            _ => Failure::Lasting(self.fault(format!("cannot be reached: {error}"))),
        }
    }

    /// An answer that refuses.
    fn refusal(&self, status: u16, response: Response<Body>) -> Failure {
        let said = response.into_body().into_with_config().limit(4096).read_to_vec().unwrap_or_default();
        let said = said_in(&said);
        match (status, &self.key) {
            (401 | 403, Some(Key { variable, value, .. })) => {
                let other = if value.is_some() { "another key" } else { "a key" };
                let message = format!("{}: answers {status}{said}: set {variable} to {other}", self.gallery);
                Failure::Lasting(Error::config(message))
            }
            (300..=399, _) => {
                Failure::Lasting(self.fault(format!("answers {status}: it redirects, which is not followed")))
            }
            (408 | 429 | 502..=504, _) => Failure::Passing(format!("answers {status}{said}")),
            _ => Failure::Lasting(self.fault(format!("answers {status}{said}"))),
        }
    }

    /// The bytes of an image anywhere. No key goes along.
    ///
    /// # Errors
    /// [`Error::Input`] that names the address, if there is none or it has too many bytes.
    pub fn image(&self, address: &str) -> Result<Vec<u8>> {
        let bad = |message: String| Error::input(without_query(address), message);
        let mut url = address.to_owned();
        for _ in 0..=REDIRECTS {
            let origin = Origin::of(&url).map_err(|_| bad("is no address of a web server".into()))?;
            let request = self.agent.get(&url).config().proxy(through(&url)?).build();
            let response = request.call().map_err(|e| bad(format!("cannot be fetched: {e}")))?;
            let status = response.status().as_u16();
            let target =
                http::header(response.headers(), "location").filter(|_| matches!(status, 301..=303 | 307 | 308));
            if let Some(target) = target {
                let next = origin.target(target).ok_or_else(|| bad(format!("redirects to {target:?}")))?;
                if origin.scheme == "https" && !next.starts_with("https:") {
                    return Err(bad("redirects from https to http".into()));
                }
                url = next;
                continue;
            }
            if status != 200 {
                return Err(bad(format!("answers {status}")));
            }
            let body = response.into_body().into_with_config().limit(MOST_OF_IMAGE);
            return body.read_to_vec().map_err(|e| match e {
                ureq::Error::BodyExceedsLimit(_) => bad(format!("has more than {MOST_OF_IMAGE} bytes")),
                e => bad(format!("cannot be fetched: {e}")),
            });
        }
        Err(bad(format!("redirects more than {REDIRECTS} times")))
    }
}

/// The proxy to an address.
fn through(url: &str) -> Result<Option<ureq::Proxy>> {
    let origin = Origin::of(url)?;
    proxy::to(&origin.scheme, &origin.host, origin.port)
}

/// An address in messages: what follows `?` may be a key to the image.
fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

/// What a server says of its refusal, in a few words: a line, or the texts that Qdrant and Flask put it into.
fn said_in(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let json = serde_json::from_str::<Value>(&text).ok();
    let found = json.as_ref().and_then(|json| json["status"]["error"].as_str().or_else(|| json["message"].as_str()));
    let line = found.unwrap_or(&text).lines().next().unwrap_or_default();
    let line: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
    if line.trim().is_empty() { String::new() } else { format!(": {}", line.trim()) }
}
