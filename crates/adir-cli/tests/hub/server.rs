//! A Hub of the tests' own: a small HTTP server that misbehaves on request.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use sha2::Sha256;

/// The commit of every model.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Files from this many bytes on are large: they lie on another host, under their SHA-256.
pub const LARGE: usize = 1000;

/// What a request asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// An answer: status, headers and body. `Content-Length` is that of the body unless it is among the headers.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection ends after so many bytes of the body.
    pub cut: Option<usize>,
    /// How long the body takes to begin.
    pub delay: Duration,
    /// The body is followed by zeros without end, and has no length.
    pub endless: bool,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    pub fn body(self, body: &[u8]) -> Self {
        Self { body: body.to_vec(), ..self }
    }
}

/// What a test wants otherwise: `None` leaves the request to the Hub.
pub type Otherwise = Box<dyn FnMut(&Asked, usize) -> Option<Reply> + Send>;

/// A running server.
pub struct Hub {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// The files of a model by name.
pub type Files = Vec<(&'static str, Vec<u8>)>;

/// Bytes that differ from each other.
pub fn bytes(count: usize, seed: u8) -> Vec<u8> {
    (0..count)
        .map(|k| (k as u64).wrapping_mul(0x9E37_79B9).wrapping_add(u64::from(seed)).to_le_bytes()[2] ^ seed)
        .collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn git(bytes: &[u8]) -> String {
    let digest = Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of a file's bytes in the cache.
pub fn blob(bytes: &[u8]) -> String {
    if bytes.len() >= LARGE { sha256(bytes) } else { git(bytes) }
}

impl Hub {
    /// Serves `models`; `otherwise` answers first, with the number of the request among those for that path.
    pub fn start(models: Vec<(&'static str, Files)>, otherwise: Otherwise) -> Self {
        let (hub, storage) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let (url, store) = (address(&hub), address(&storage));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::new((models, Mutex::new(otherwise), asked.clone(), store));
        for (listener, is_hub) in [(hub, true), (storage, false)] {
            let shared = shared.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let shared = shared.clone();
                    std::thread::spawn(move || {
                        let (models, otherwise, asked, storage) = &*shared;
                        let Some((request, mut stream)) = read(stream) else { return };
                        let times = {
                            let mut asked = asked.lock().unwrap();
                            let before = asked.iter().filter(|old: &&Asked| old.path == request.path).count();
                            asked.push(request.clone());
                            before
                        };
                        let other = (otherwise.lock().unwrap())(&request, times);
                        let reply = other.unwrap_or_else(|| answer(models, &request, is_hub, storage));
                        let _ = send(&mut stream, &request, &reply);
                    });
                }
            });
        }
        Self { url, asked }
    }

    /// One that does what it should.
    pub fn honest(models: Vec<(&'static str, Files)>) -> Self {
        Self::start(models, Box::new(|_, _| None))
    }

    /// The requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Requests for files of weights.
    pub fn asked_for(&self, end: &str) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.path.ends_with(end)).collect()
    }

    /// The program in `folder` with this Hub, and none of the variables of whoever runs the tests.
    pub fn command(&self, folder: &Path, args: &[&str]) -> Command {
        let mut command = command(folder, args);
        command.env("HF_ENDPOINT", &self.url);
        command
    }

    /// Runs it.
    pub fn run(&self, folder: &Path, args: &[&str]) -> Output {
        self.command(folder, args).output().unwrap()
    }
}

/// The program in `folder`, with its caches there.
pub fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = crate::common::command(folder, args);
    for name in [
        "ALL_PROXY",
        "HF_HUB_CACHE",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN",
        "HF_HUB_DISABLE_SYMLINKS",
        "HF_HUB_OFFLINE",
        "HF_TOKEN",
        "HF_TOKEN_PATH",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "HUGGINGFACE_HUB_CACHE",
        "HUGGING_FACE_HUB_TOKEN",
        "NO_PROXY",
        "REQUESTS_CA_BUNDLE",
        "SSL_CERT_FILE",
        "TRANSFORMERS_OFFLINE",
        "all_proxy",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    ] {
        command.env_remove(name);
    }
    command.env("HF_HOME", folder.join("hf")).env("XDG_CONFIG_HOME", folder.join("config"));
    command
}

fn read(stream: TcpStream) -> Option<(Asked, TcpStream)> {
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    let mut lines = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    let mut next = || {
        line.clear();
        lines.read_line(&mut line).ok().filter(|count| *count > 0)?;
        Some(line.trim_end().to_owned())
    };
    let first = next()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    while let Some((name, value)) = next()?.split_once(':') {
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    if method == "CONNECT" {
        // As a proxy, this server leads to itself.
        let mut stream = stream;
        stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").ok()?;
        let (mut inner, stream) = read(stream)?;
        inner.headers.insert("x-through".into(), path);
        return Some((inner, stream));
    }
    Some((Asked { method, path, headers }, stream))
}

fn send(stream: &mut TcpStream, asked: &Asked, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Said\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !reply.endless && !reply.headers.iter().any(|(name, _)| name == "Content-Length") {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    if asked.method == "HEAD" {
        return Ok(());
    }
    std::thread::sleep(reply.delay);
    stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())])?;
    if reply.endless {
        loop {
            stream.write_all(&[0; 4096])?;
        }
    }
    stream.flush()
}

/// What the Hub says of a model.
pub fn listing(files: &Files) -> Value {
    let siblings: Vec<_> = files
        .iter()
        .map(|(name, bytes)| match bytes.len() >= LARGE {
            true => json!({"rfilename": name, "size": bytes.len(), "blobId": git(name.as_bytes()),
                "lfs": {"sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 134}}),
            false => json!({"rfilename": name, "size": bytes.len(), "blobId": git(bytes)}),
        })
        .collect();
    json!({"id": "org/any", "sha": COMMIT, "siblings": siblings, "cardData": {"license": "openrail++"}, "gated": false})
}

/// The same in the form of a tree, which `huggingface_hub` asks for.
fn tree(files: &Files) -> Value {
    let entry = |(name, bytes): &(&str, Vec<u8>)| match bytes.len() >= LARGE {
        true => json!({"type": "file", "path": name, "size": bytes.len(), "oid": git(name.as_bytes()),
            "lfs": {"oid": sha256(bytes), "size": bytes.len(), "pointerSize": 134}}),
        false => json!({"type": "file", "path": name, "size": bytes.len(), "oid": git(bytes)}),
    };
    files.iter().map(entry).collect()
}

fn answer(models: &[(&'static str, Files)], asked: &Asked, is_hub: bool, storage: &str) -> Reply {
    let path = asked.path.split('?').next().unwrap();
    if !is_hub {
        let all = models.iter().flat_map(|(_, files)| files);
        let found = all.map(|(_, bytes)| bytes).find(|bytes| path == format!("/{}", sha256(bytes)));
        return found.map_or(Reply::new(404), |bytes| ranged(asked, bytes));
    }
    for (id, files) in models {
        let begins = [format!("/api/models/{id}/revision/main"), format!("/api/models/{id}/revision/{COMMIT}")];
        if begins.iter().any(|begin| path == begin) {
            return Reply::new(200).body(listing(files).to_string().as_bytes());
        }
        if path == format!("/api/models/{id}/tree/{COMMIT}") {
            return Reply::new(200).body(tree(files).to_string().as_bytes());
        }
        for (name, bytes) in files {
            let encoded = name.replace(' ', "%20");
            if path != format!("/{id}/resolve/{COMMIT}/{encoded}") && path != format!("/{id}/resolve/main/{encoded}") {
                continue;
            }
            let reply = match bytes.len() >= LARGE {
                true => Reply::new(302)
                    .with("Location", format!("{storage}/{}", sha256(bytes)))
                    .with("X-Linked-Etag", format!("\"{}\"", sha256(bytes)))
                    .with("X-Linked-Size", bytes.len()),
                false => ranged(asked, bytes).with("ETag", format!("\"{}\"", git(bytes))),
            };
            return reply.with("X-Repo-Commit", COMMIT);
        }
    }
    Reply::new(404).with("X-Error-Code", "RepoNotFound").with("X-Error-Message", "Repository not found")
}

/// The bytes, or the range of them that was asked for.
pub fn ranged(asked: &Asked, bytes: &[u8]) -> Reply {
    let from = asked.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match from {
        Some(from) if from < bytes.len() => Reply::new(206)
            .body(&bytes[from..])
            .with("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
        Some(_) => Reply::new(416),
        None => Reply::new(200).body(bytes),
    }
}
