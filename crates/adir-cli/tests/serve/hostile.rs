//! Whom the server refuses, and what it survives.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use adir::noise::{Noise, Stream};
use serde_json::json;

use super::client::{Server, answer};
use super::with_picture;

/// Names that a foreign page can let point at this machine, and what is no name of it.
#[test]
fn other_hosts_are_refused() {
    let (folder, _) = with_picture("hosts", 16);
    let server = Server::start(&folder, &["--host", "pictures.example"]);
    let port = server.address.port();
    let status = |host: &str| server.with("GET", "/api/v1/info", &format!("Host: {host}\r\n"), b"").status;
    for host in ["127.0.0.1:PORT", "localhost:PORT", "[::1]:PORT", "pictures.example"] {
        assert_eq!(status(&host.replace("PORT", &port.to_string())), 200, "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:PORT",
        "localhost",
        "127.0.0.1",
        "localhost.:PORT",
        "127.0.0.1.:PORT",
        "localhost:1",
        "127.0.0.1.nip.io:PORT",
        "localhost.evil.example:PORT",
        "0.0.0.0:PORT",
        "127.1:PORT",
        "2130706433:PORT",
        "0x7f000001:PORT",
        "[::]:PORT",
        "[::ffff:127.0.0.1]:PORT",
        "user@localhost:PORT",
        "localhost:PORT:PORT",
        "localhost:0PORT",
        "machine.local:PORT",
        "xpictures.example",
        "",
    ] {
        let host = host.replace("PORT", &port.to_string());
        assert!([400, 403].contains(&status(&host)), "{host}");
    }
    let twice = format!("Host: 127.0.0.1:{port}\r\nHost: evil.example\r\n");
    assert!([400, 403].contains(&server.with("GET", "/api/v1/info", &twice, b"").status));
    assert!([400, 403].contains(&server.raw(b"GET /api/v1/info HTTP/1.1\r\nConnection: close\r\n\r\n").status));
    assert!([400, 403].contains(&server.raw(b"GET /api/v1/info HTTP/1.0\r\n\r\n").status));
}

/// What pages of other origins can make a browser send.
#[test]
fn other_origins_are_refused() {
    let (folder, y) = with_picture("origins", 16);
    let server = Server::start(&folder, &[]);
    let (port, json) = (server.address.port(), "Content-Type: application/json\r\n");
    let image = server.upload("y.png", &y);
    let body = json!({"image": image, "task": "denoise", "sigma": 5}).to_string();
    let post = |headers: &str| {
        server.with("POST", "/api/v1/jobs", &headers.replace("PORT", &port.to_string()), body.as_bytes()).status
    };
    for foreign in [
        "http://evil.example",
        "https://evil.example",
        "null",
        "http://127.0.0.1:1",
        "http://localhost",
        "http://localhost:PORT",
        "https://127.0.0.1:PORT.evil.example",
        "http://127.0.0.1:PORT@evil.example",
        "file://",
        "http://127.0.0.1:PORT/",
        "chrome-extension://abcdef",
        "http://evil.example#127.0.0.1:PORT",
        "",
    ] {
        assert_eq!(post(&format!("{json}Origin: {foreign}\r\n")), 403, "{foreign}");
    }
    for headers in [
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: text/plain\r\n",
        "Content-Type: multipart/form-data; boundary=x\r\n",
        "Content-Type: Text/Plain;charset=utf-8\r\n",
        "Content-Type: application/json\r\nReferer: http://evil.example/page\r\n",
        "Content-Type: application/json\r\nSec-Fetch-Site: cross-site\r\n",
        "Content-Type: application/json\r\nSec-Fetch-Site: same-site\r\n",
        "Content-Type: application/json\r\nOrigin: http://127.0.0.1:PORT\r\nOrigin: http://evil.example\r\n",
    ] {
        assert_eq!(post(headers), 403, "{headers}");
    }
    let looks = |headers: &str| server.with("GET", "/api/v1/jobs", headers, b"").status;
    assert_eq!(looks("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n"), 403);
    let socket = "Upgrade: websocket\r\nConnection: Upgrade\r\nOrigin: http://evil.example\r\n";
    assert_eq!(looks(socket), 403);
    // A link leads to the page.
    assert_eq!(server.with("GET", "/", "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n", b"").status, 200);
    let own =
        server.with("POST", "/api/v1/jobs", &format!("{json}Origin: http://127.0.0.1:{port}\r\n"), body.as_bytes());
    assert_eq!(own.status, 201);
    assert!(!own.head.contains("access-control"), "{}", own.head);
    assert!(own.head.contains("nosniff") && own.head.contains("default-src 'none'"), "{}", own.head);
}

#[test]
fn a_token_is_asked_for() {
    let (folder, _) = with_picture("token", 16);
    let server = Server::start(&folder, &["--require-token"]);
    let token = server.printed.trim().split("token=").nth(1).unwrap().to_owned();
    assert_eq!(token.len(), 32);
    let status = |path: &str, headers: &str| server.with("GET", path, headers, b"").status;
    for path in ["/", "/app.js", "/api/v1/info", "/api/v1/openapi.json", "/api/v1/events", "/?token=", "/?token=0"] {
        assert_eq!(status(path, ""), 401, "{path}");
    }
    assert_eq!(status("/api/v1/info", &format!("Authorization: Bearer {token}\r\n")), 200);
    assert_eq!(status("/api/v1/info", &format!("Authorization: Bearer {token}x\r\n")), 401);
    assert_eq!(status(&format!("/api/v1/info?token={token}"), ""), 401);
    let let_in = server.with("GET", &format!("/?token={token}"), "", b"");
    assert_eq!(let_in.status, 303);
    let cookie = let_in.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    assert!(cookie.contains("samesite=strict") && cookie.contains("httponly"), "{cookie}");
    assert_eq!(status("/api/v1/info", &format!("Cookie: a=b; adir-{}={token}\r\n", server.address.port())), 200);
    let (_, refused) = super::expect(2, &folder, &["serve", "--listen", "127.0.0.1:0", "--gallery", "=x"]);
    assert!(refused.contains("NAME=PATH"), "{refused}");
}

/// Nothing outside the page and the jobs can be had.
#[test]
fn no_path_reaches_the_disk() {
    let (folder, _) = with_picture("paths", 16);
    let server = Server::start(&folder, &[]);
    let ups = ["..", "%2e%2e", "%2E%2E", "..%2f", "..%5c", "%2e%2e%2f", "....//", "..%c0%af", "%252e%252e%252f", "..;"];
    let ends = ["etc/passwd", "data/lock", "Cargo.toml", "%00", "etc%2fpasswd", "C:%5cWindows%5cwin.ini"];
    let mut tried = 0;
    for up in ups {
        for end in ends {
            for below in ["/", "/api/v1/jobs/", "/api/v1/images/"] {
                let got = server.with("GET", &format!("{below}{up}/{up}/{end}"), "", b"");
                assert!((400..500).contains(&got.status), "{below}{up}/{up}/{end}: {}", got.status);
                assert!(!String::from_utf8_lossy(&got.body).contains("root:"));
                tried += 1;
            }
        }
    }
    assert!(tried >= 60);
    for name in ["%5c%5cserver%5cshare", "nul", "/etc/passwd", "//etc/passwd", "app.js%00", "index.html/", "APP.JS"] {
        assert!((400..500).contains(&server.with("GET", &format!("/{name}"), "", b"").status), "{name}");
    }
    // Not even the name of a picture.
    let (_, y) = with_picture("names", 16);
    for name in ["..%2f..%2fx.png", "%00.png", "a%2fb.png", "%3Cscript%3E.png", "x.png%0d%0aSet-Cookie:a=b"] {
        let id = server.upload(name, &y);
        let files: Vec<_> =
            std::fs::read_dir(folder.join("data/images").join(id)).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert!(files.iter().all(|file| file == "file.png" || file == "file" || file == "about.json"), "{files:?}");
    }
}

/// Requests of random bytes, JSON that is cut or nested, bodies that are too long, and clients that send nothing: the server
/// goes on, and grows by no more than it is allowed to.
#[test]
fn malformed_oversized_and_slow_requests_are_survived() {
    let (folder, y) = with_picture("malformed", 16);
    let server = Server::start(&folder, &[]);
    let image = server.upload("y.png", &y);
    server.done(&server.begin(&json!({"image": image, "task": "denoise", "sigma": 10})));
    let before = server.memory();
    // Whoever sends nothing more holds a connection for seconds, and nobody up.
    let mut slow: Vec<_> = (0..50).map(|_| server.connect()).collect();
    for (k, stream) in slow.iter_mut().enumerate() {
        let head = format!("POST /api/v1/images HTTP/1.1\r\nHost: {}\r\n", server.address);
        let sent = if k % 2 == 0 { head } else { format!("{head}Content-Length: 1000000\r\n\r\nabc") };
        stream.write_all(sent.as_bytes()).unwrap();
    }
    let whole = json!({"image": image, "task": "denoise", "sigma": 10, "kernel": null}).to_string();
    let noise = Noise::new(1, Stream::Degradation);
    let random = |k: usize, count: usize| -> Vec<u8> {
        noise.normal(k.try_into().unwrap(), count).into_iter().map(|v| v.to_bits() as u8).collect()
    };
    let paths = ["/jobs", "/plan", "/preview", "/images", "/jobs/x/cancel"];
    for k in 0..1000_usize {
        let body: Vec<u8> = match k % 5 {
            0 => random(k, k / 2),
            1 => whole.as_bytes()[..k % whole.len()].to_vec(),
            2 => [b"[".repeat(k), b"]".repeat(k)].concat(),
            3 => {
                let mut body = whole.clone().into_bytes();
                let drawn = random(k, 2);
                let at = usize::from(drawn[0]) % body.len();
                body[at] = drawn[1];
                body
            }
            _ => format!(r#"{{"image": {k}, "task": {{"sr2": []}}, "samples": -{k}e{k}}}"#).into_bytes(),
        };
        let path = paths[k % paths.len()];
        let got = match k % 7 {
            0 => server.raw(&body),
            _ => server.with("POST", &format!("/api/v1{path}"), "Content-Type: application/json\r\n", &body),
        };
        assert!(got.status == 0 || got.status == 201 || (400..500).contains(&got.status), "{k}: {got:?}");
    }
    // More than is taken: as it is announced, and without being announced.
    let announced =
        format!("POST /api/v1/images HTTP/1.1\r\nHost: {}\r\nContent-Length: 34603008\r\n\r\n", server.address);
    assert_eq!(server.raw(announced.as_bytes()).status, 413);
    let mut stream = server.connect();
    write!(stream, "POST /api/v1/images HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n", server.address)
        .unwrap();
    let part = [b"100000\r\n".as_slice(), &vec![7; 1 << 20], b"\r\n"].concat();
    // It stops listening when it has heard enough.
    let sent = (0..64).take_while(|_| stream.write_all(&part).is_ok()).count();
    assert!((32..64).contains(&sent), "{sent} MB");
    let json = format!(r#"{{"image": "{}"}}"#, "x".repeat(1 << 20));
    let got = server.with("POST", "/api/v1/plan", "Content-Type: application/json\r\n", json.as_bytes());
    assert!(got.status == 413 || got.status == 0, "{}", got.status);
    let mut endless = server.connect();
    let _ = write!(endless, "GET / HTTP/1.1\r\nHost: {}\r\n{}", server.address, "A: b\r\n".repeat(100_000));
    assert!([0, 400, 431].contains(&answer(&mut endless).status));
    // While the slow ones wait, others are served.
    server.done(&server.begin(&json!({"image": image, "task": "denoise", "sigma": 11})));
    let grown = server.memory().saturating_sub(before);
    assert!(grown <= 64 << 20, "{grown} bytes");
    // The slow ones are let go.
    thread::sleep(Duration::from_secs(11));
    let is_gone =
        |stream: &mut TcpStream| stream.write_all(b"X-More: 1\r\n\r\n").is_err() || answer(stream).status != 200;
    let gone = slow.iter_mut().step_by(2).map(is_gone).filter(|gone| *gone).count();
    assert_eq!(gone, 25);
    let left = std::fs::read_dir(folder.join("data/images")).unwrap().count();
    assert!(left <= 60, "{left} uploads");
    assert!(!server.end().contains("panicked"));
}
