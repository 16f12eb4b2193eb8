//! Requests to the Hub: redirects, the token, and which failures pass.

use std::cell::Cell;
use std::io::Read;
use std::thread::sleep;
use std::time::{Duration, Instant};

use adir::{Error, Result};
use ureq::http::{HeaderMap, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::access::{self, variable};
use super::address::Origin;
use super::blob::Digest;
use super::proxy;
use crate::log::Log;

/// Most redirects of one request.
const REDIRECTS: usize = 10;
/// Tries of a request that fails in passing.
const TRIES: u32 = 5;
/// The pause after the first of them; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// How long a server may say nothing.
const SILENCE: Duration = Duration::from_secs(30);
/// Most bytes of an answer that is no file.
const MOST: u64 = 32 << 20;

/// Why a request failed.
#[derive(Debug)]
pub enum Failure {
    /// The next try may succeed, after a pause that the server may have named.
    Passing { of: String, message: String, pause: Option<Duration> },
    /// There is no such model or file, or none that may be seen.
    Absent(Error),
    /// No other try would help.
    Lasting(Error),
}

impl Failure {
    /// A passing one of an address or a file.
    pub fn passing(of: &str, message: impl std::fmt::Display) -> Self {
        Self::Passing { of: of.to_owned(), message: message.to_string(), pause: None }
    }

    /// A lasting one of a server that says what cannot be.
    pub fn of(url: &str, message: impl Into<String>) -> Self {
        Self::Lasting(Error::model(url, message))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Lasting(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Passing { of, message, .. } => Self::model(of, format!("{message}; gave up after {TRIES} tries")),
            Failure::Absent(error) | Failure::Lasting(error) => error,
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Get,
    Head,
}

/// An answer with a body.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// The hash of the file, if the Hub itself states it before it redirects to where the file lies.
    pub linked: Option<Digest>,
    body: Body,
}

impl Answer {
    /// The bytes, as they come.
    pub fn reader(self) -> impl Read {
        self.body.into_reader()
    }
}

/// The Hub.
pub struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    has_answered: Cell<bool>,
}

impl Hub {
    /// The Hub that the variables name; opens no connection.
    ///
    /// # Errors
    /// [`Error::Config`] for a variable that holds what it cannot.
    pub fn open() -> Result<Self> {
        let agent = agent(SILENCE, None)?;
        let (endpoint, token) = (access::endpoint()?, access::token()?);
        Ok(Self { agent, endpoint, token, has_answered: Cell::new(false) })
    }

    /// Its address.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether requests carry a token.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The answer to a request for a short text.
    ///
    /// # Errors
    /// What lasts, or still failed at the last try.
    pub fn text(&self, url: &str, log: &Log) -> Result<Vec<u8>, Failure> {
        let mut patience = Patience::default();
        loop {
            let read = |answer: Answer| {
                answer.body.into_with_config().limit(MOST).read_to_vec().map_err(|e| match e {
                    ureq::Error::BodyExceedsLimit(_) => {
                        Failure::of(url, format!("answers with more than {MOST} bytes"))
                    }
                    e => Failure::passing(url, e),
                })
            };
            match self.get(url, 0).and_then(read) {
                Err(failure) => patience.wait(failure, log)?,
                done => return done,
            }
        }
    }

    /// Size and hash of a file, where the listing lacks them.
    ///
    /// # Errors
    /// As [`Hub::text`], and if the Hub states none.
    pub fn facts(&self, url: &str, log: &Log) -> Result<super::listing::Facts, Failure> {
        let mut patience = Patience::default();
        let answer = loop {
            match self.send(Method::Head, url, 0) {
                Err(failure) => patience.wait(failure, log)?,
                Ok(answer) => break answer,
            }
        };
        // Those of a redirect are its own.
        let own = |name| header(&answer.headers, name).filter(|_| answer.status == 200);
        let size = header(&answer.headers, "x-linked-size").or_else(|| own("content-length"));
        let tag = header(&answer.headers, "x-linked-etag").or_else(|| own("etag"));
        match (size.and_then(|size| size.parse().ok()), tag.and_then(Digest::parse)) {
            (Some(size), Some(digest)) => Ok(super::listing::Facts { size, digest }),
            _ => Err(Failure::of(url, "states neither size nor hash of the file")),
        }
    }

    /// The bytes of a file from an offset on.
    pub fn get(&self, url: &str, from: u64) -> Result<Answer, Failure> {
        self.send(Method::Get, url, from)
    }

    /// One request, with its redirects. The token goes to the Hub only.
    fn send(&self, method: Method, url: &str, from: u64) -> Result<Answer, Failure> {
        let hub = Origin::of(&self.endpoint)?;
        let (mut url, mut linked) = (url.to_owned(), None);
        for _ in 0..=REDIRECTS {
            let origin = Origin::of(&url)?;
            let response = self.once(method, &url, from, &origin, origin == hub)?;
            self.has_answered.set(true);
            let (status, headers) = (response.status().as_u16(), response.headers());
            if origin == hub && linked.is_none() {
                linked = header(headers, "x-linked-etag").and_then(Digest::parse);
            }
            let target = header(headers, "location").filter(|_| matches!(status, 301 | 302 | 303 | 307 | 308));
            let Some(target) = target else {
                return match status {
                    200 | 206 | 416 => {
                        let (parts, body) = response.into_parts();
                        Ok(Answer { status, headers: parts.headers, linked, body })
                    }
                    _ => Err(self.refusal(status, headers, &url, origin == hub)),
                };
            };
            let next = origin.target(target);
            let next = next.ok_or_else(|| Failure::of(shown(&url), format!("redirects to {target:?}")))?;
            let beyond = Origin::of(&next)?;
            if method == Method::Head && beyond != hub {
                let (parts, body) = response.into_parts();
                return Ok(Answer { status, headers: parts.headers, linked, body });
            }
            if origin.scheme == "https" && beyond.scheme != "https" {
                return Err(Failure::of(shown(&url), format!("redirects from https to {}", shown(&next))));
            }
            url = next;
        }
        Err(Failure::of(shown(&url), format!("redirects more than {REDIRECTS} times")))
    }

    fn once(
        &self,
        method: Method,
        url: &str,
        from: u64,
        origin: &Origin,
        is_hub: bool,
    ) -> Result<Response<Body>, Failure> {
        let request = match method {
            Method::Get => self.agent.get(url),
            Method::Head => self.agent.head(url),
        };
        let through = proxy::to(&origin.scheme, &origin.host, origin.port)?;
        let mut request = request.config().proxy(through).build().header("accept-encoding", "identity");
        if let Some(token) = self.token.as_ref().filter(|_| is_hub) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        request.call().map_err(|error| self.failure(&error, url))
    }

    /// A request without an answer.
    fn failure(&self, error: &ureq::Error, url: &str) -> Failure {
        let url = shown(url);
        let is_certificate = match error {
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => true,
            ureq::Error::Io(e) => e.kind() == std::io::ErrorKind::InvalidData,
            _ => false,
        };
        if is_certificate {
            let message = format!("no safe connection: {error}; SSL_CERT_FILE names other root certificates");
            return Failure::of(url, message);
        }
        // What never answered is not there, or cannot be reached from here.
        if !self.has_answered.get() {
            let message = format!(
                "cannot be reached: {error}; HF_ENDPOINT names another Hub, HTTPS_PROXY a proxy, and models that are in the \
                 cache need no connection"
            );
            return Failure::of(url, message);
        }
        Failure::passing(url, error)
    }

    /// An answer that refuses.
    fn refusal(&self, status: u16, headers: &HeaderMap, url: &str, is_hub: bool) -> Failure {
        let url = shown(url);
        let code = header(headers, "x-error-code").unwrap_or_default();
        let said = header(headers, "x-error-message").map(|text| format!(": {text}")).unwrap_or_default();
        match status {
            // The address of a file expires; the Hub gives a new one.
            403 if !is_hub => Failure::passing(url, "answers 403"),
            401 | 403 if code == "GatedRepo" => Failure::Lasting(Error::config(self.about_gates(url, &said))),
            401 | 404 if code == "RevisionNotFound" => {
                Failure::Lasting(Error::config(format!("{url}: there is no such revision{said}")))
            }
            401 => Failure::Absent(Error::config(format!(
                "{url}: answers 401{said}: there is no such model, or it is private: {}",
                self.about_tokens()
            ))),
            403 => {
                let message =
                    format!("{url}: answers 403{said}: the token does not permit it: {}", self.about_tokens());
                Failure::Lasting(Error::config(message))
            }
            404 | 410 => Failure::Absent(Error::config(format!("{url}: there is no such model or file{said}"))),
            408 | 429 | 500..=599 => {
                let seconds = header(headers, "retry-after").and_then(|text| text.trim().parse().ok());
                let pause = seconds.map(|seconds| Duration::from_secs(seconds).min(LONGEST_PAUSE));
                Failure::Passing { of: url.to_owned(), message: format!("answers {status}{said}"), pause }
            }
            _ => Failure::of(url, format!("answers {status}{said}")),
        }
    }

    fn about_gates(&self, url: &str, said: &str) -> String {
        format!(
            "{url}: the model is gated{said}: sign in at {hub}, agree to the conditions on the model's page, and {tokens}",
            hub = self.endpoint,
            tokens = self.about_tokens()
        )
    }

    fn about_tokens(&self) -> String {
        let other = if self.token.is_some() { "another token" } else { "a token" };
        format!("set HF_TOKEN to {other} with read access from {}/settings/tokens", self.endpoint)
    }
}

/// What opens connections: redirects and refusals are answers, and a server may say nothing for `silence`, nor take longer
/// than `whole`.
///
/// # Errors
/// [`Error::Config`] for certificates that are none.
pub fn agent(silence: Duration, whole: Option<Duration>) -> Result<Agent> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_resolve(Some(silence))
        .timeout_connect(Some(silence))
        .timeout_recv_response(Some(2 * silence))
        .timeout_per_read(Some(silence))
        .timeout_global(whole)
        .user_agent(concat!("adir/", env!("CARGO_PKG_VERSION")))
        .tls_config(TlsConfig::builder().root_certs(roots()?).build());
    Ok(config.build().into())
}

/// An address in messages: what follows `?` may be a key to the file.
fn shown(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

/// How often a request was tried.
#[derive(Default)]
pub struct Patience {
    tries: u32,
}

impl Patience {
    /// Counts anew: the last try got somewhere.
    pub fn renew(&mut self) {
        self.tries = 0;
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// The failure, if it lasts or this was the last try; [`Error::Interrupted`].
    pub fn wait(&mut self, failure: Failure, log: &Log) -> Result<(), Failure> {
        let Failure::Passing { of, message, pause } = &failure else { return Err(failure) };
        self.tries += 1;
        if self.tries >= TRIES {
            return Err(failure);
        }
        let pause = pause.unwrap_or(PAUSE * 2_u32.pow(self.tries - 1));
        log.info(&format!("{of}: {message}: trying again in {:.1} s", pause.as_secs_f64()));
        let end = Instant::now() + pause;
        while Instant::now() < end {
            log.check()?;
            sleep(Duration::from_millis(50).min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }
}

/// A header as text.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The certificates that others are judged by: those in `SSL_CERT_FILE`, else Mozilla's, which are part of the program.
fn roots() -> Result<RootCerts> {
    let Some(path) = variable("SSL_CERT_FILE").or_else(|| variable("REQUESTS_CA_BUNDLE")) else {
        return Ok(RootCerts::WebPki);
    };
    let pem = std::fs::read(&path).map_err(|e| Error::config(format!("{path} (SSL_CERT_FILE): {e}")))?;
    let found: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    match found.is_empty() {
        true => Err(Error::config(format!("{path} (SSL_CERT_FILE): holds no certificates (PEM)"))),
        false => Ok(RootCerts::from(found)),
    }
}
