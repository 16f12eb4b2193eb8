//! Who may ask: requests to this server by its own page, or by a program of the user.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HOST, LOCATION, ORIGIN, REFERER, SET_COOKIE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::{Fault, Kind};

/// The cookie that holds the token, before the port: servers of one machine are told apart by that.
const NAME: &str = "adir-";

/// What the page may load: only what this server sends.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; \
                      frame-src 'self'; manifest-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
/// What a report may: it holds all that it needs, and is of no origin.
pub const REPORT_POLICY: &str = "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
                                 script-src 'unsafe-inline'; frame-ancestors 'self'";

/// The address of this server that a connection came to.
#[derive(Debug, Clone, Copy)]
pub struct Reached(pub SocketAddr);

/// Who may ask.
#[derive(Debug)]
pub struct Guard {
    /// Names of this server besides its address.
    pub hosts: Vec<String>,
    /// What a client must know, if anything.
    pub token: Option<String>,
}

impl Guard {
    /// Whether `host` is this server: the address that the connection came to, `localhost` where that is this machine's own,
    /// or a name given at the start. Any other name may be one that a foreign page has let point here (DNS rebinding).
    fn is_ours(&self, host: &str, reached: SocketAddr) -> bool {
        let port = reached.port();
        let is = |name: &str| {
            host.eq_ignore_ascii_case(&format!("{name}:{port}")) || (port == 80 && host.eq_ignore_ascii_case(name))
        };
        let ip = reached.ip().to_canonical();
        let literal = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
        let loopback = ip.is_loopback() && ["localhost", "127.0.0.1", "[::1]"].into_iter().any(is);
        is(&literal) || loopback || self.hosts.iter().any(|name| is(name) || host.eq_ignore_ascii_case(name))
    }

    /// Whether a request knows the token.
    fn knows(&self, headers: &HeaderMap, port: u16) -> bool {
        let Some(token) = &self.token else { return true };
        let bearer = headers.get(AUTHORIZATION).and_then(|v| {
            let (scheme, given) = v.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(given.trim())
        });
        let cookies = headers.get_all(COOKIE).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
        let cookies = cookies
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(name, _)| name.strip_prefix(NAME) == Some(&port.to_string()));
        bearer.into_iter().chain(cookies.map(|(_, value)| value)).any(|given| same(given, token))
    }
}

/// Whether two texts are the same, in a time that does not tell how far they are.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

fn forbidden(message: &str) -> Fault {
    Fault::new(StatusCode::FORBIDDEN, Kind::Forbidden, message)
}

/// The only value of a header; `None` if there is none, or if it is there twice or is no text.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    if all.next().is_some() { None } else { first.to_str().ok() }
}

/// Refuses what a page of another origin may have sent: pages cannot leave out or change these headers.
fn check_origin(request: &Request, host: &str) -> Result<(), Fault> {
    let headers = request.headers();
    let is_ours =
        |origin: &str| ["http://", "https://"].into_iter().any(|scheme| origin.strip_prefix(scheme) == Some(host));
    if headers.contains_key(ORIGIN) && !only(headers, ORIGIN).is_some_and(is_ours) {
        return Err(forbidden("asked by a page of another origin"));
    }
    let site = HeaderName::from_static("sec-fetch-site");
    let is_navigation = only(headers, HeaderName::from_static("sec-fetch-mode")) == Some("navigate");
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if headers.contains_key(&site)
        && !matches!(only(headers, site), Some("same-origin" | "none"))
        // A link of another page may lead here.
        && !(reads && is_navigation && request.uri().path() == "/")
    {
        return Err(forbidden("asked by a page of another site"));
    }
    if reads {
        return Ok(());
    }
    let referer = only(headers, REFERER).map(|referer| referer.split('/').take(3).collect::<Vec<_>>().join("/"));
    if headers.contains_key(REFERER) && !referer.is_some_and(|origin| is_ours(&origin)) {
        return Err(forbidden("asked by a page of another origin"));
    }
    // What a form of any page can send without being asked back.
    let kind = only(headers, CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"]
        .contains(&kind.to_ascii_lowercase().as_str())
    {
        return Err(forbidden("forms are not taken: send application/json, or a picture as application/octet-stream"));
    }
    Ok(())
}

/// Lets through who may ask, and adds the headers that every answer has.
pub async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let mut answer = match refusal(&guard, &request) {
        None => next.run(request).await,
        Some(refusal) => refusal,
    };
    let headers = answer.headers_mut();
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cache-control", "no-cache"),
    ] {
        headers.entry(HeaderName::from_static(name)).or_insert(HeaderValue::from_static(value));
    }
    answer
}

/// What is answered to a request that is not let through.
fn refusal(guard: &Guard, request: &Request) -> Option<Response> {
    let reached = request.extensions().get::<Reached>().copied();
    let ours =
        reached.zip(only(request.headers(), HOST)).filter(|(Reached(address), host)| guard.is_ours(host, *address));
    let Some((Reached(reached), host)) = ours else {
        return Some(forbidden("this server is not called that: see --host").into_response());
    };
    if let Err(fault) = check_origin(request, host) {
        return Some(fault.into_response());
    }
    if guard.knows(request.headers(), reached.port()) {
        return None;
    }
    let given = request.uri().query().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("token=")));
    let is_page = request.uri().path() == "/";
    Some(match (&guard.token, given) {
        (Some(token), Some(given)) if is_page && same(given, token) => {
            let cookie =
                format!("{NAME}{}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000", reached.port());
            ([(SET_COOKIE, cookie), (LOCATION, "/".into())], StatusCode::SEE_OTHER).into_response()
        }
        _ if is_page => {
            let page = "<!DOCTYPE html><html lang=\"en\"><meta charset=\"utf-8\"><title>adir</title><h1>adir</h1>\
                        <p>Open the address that the server printed when it started. It holds a token.</p></html>";
            (StatusCode::UNAUTHORIZED, [(CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
        }
        _ => {
            let message =
                "a token is needed: Authorization: Bearer TOKEN, with that of the address that the server printed";
            Fault::new(StatusCode::UNAUTHORIZED, Kind::Forbidden, message).into_response()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_server_are_taken() {
        let guard = Guard { hosts: vec!["pictures.example".into()], token: None };
        let here: SocketAddr = "127.0.0.1:8421".parse().unwrap();
        for host in [
            "127.0.0.1:8421",
            "localhost:8421",
            "LOCALHOST:8421",
            "[::1]:8421",
            "pictures.example",
            "pictures.example:8421",
        ] {
            assert!(guard.is_ours(host, here), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8421",
            "127.0.0.1",
            "127.0.0.1:80",
            "127.0.0.1:8421.",
            "localhost.:8421",
            "127.0.0.1.nip.io:8421",
            "127.1:8421",
            "2130706433:8421",
            "0.0.0.0:8421",
            "[::ffff:127.0.0.1]:8421",
            "localhost:8421 ",
            "localhost:08421",
            "localhost:8421:8421",
            "user@localhost:8421",
            "localhost@evil.example:8421",
            "pictures.example.evil.example",
            "xpictures.example",
            "127.0.0.2:8421",
        ] {
            assert!(!guard.is_ours(host, here), "{host}");
        }
        let outside: SocketAddr = "192.0.2.7:8421".parse().unwrap();
        assert!(guard.is_ours("192.0.2.7:8421", outside) && !guard.is_ours("localhost:8421", outside));
    }
}
