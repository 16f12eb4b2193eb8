//! A server of its own for each test, and requests to it byte by byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::command;

/// A running server.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    /// What it printed.
    pub printed: String,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In small letters.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }
}

impl Server {
    /// Starts in `folder`, with its data there, at a free port.
    pub fn start(folder: &Path, args: &[&str]) -> Self {
        let all: Vec<&str> =
            ["serve", "--listen", "127.0.0.1:0", "--data", "data"].into_iter().chain(args.iter().copied()).collect();
        let mut child = command(folder, &all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut printed = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut printed).unwrap();
        let address = printed.trim().strip_prefix("http://").and_then(|rest| rest.split('/').next());
        let address = address.and_then(|address| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("{printed:?}: {}", rest_of(&mut child)));
        Self { child, address, printed }
    }

    /// Kills it at once.
    pub fn kill(mut self) -> String {
        self.child.kill().unwrap();
        rest_of(&mut self.child)
    }

    /// Asks it to end, and returns what it said.
    pub fn end(mut self) -> String {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let said = rest_of(&mut self.child);
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{said}");
        said
    }

    /// Bytes of memory that it has.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        stream
    }

    /// Sends these bytes, and reads the answer.
    pub fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        // It may answer and close before all is sent.
        let _ = stream.write_all(bytes);
        answer(&mut stream)
    }

    /// A request with headers of its own.
    pub fn with(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let host = if headers.to_ascii_lowercase().contains("host:") {
            String::new()
        } else {
            format!("Host: {}\r\n", self.address)
        };
        let length = if body.is_empty() && method == "GET" {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let head = format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{length}{headers}\r\n");
        self.raw(&[head.as_bytes(), body].concat())
    }

    pub fn get(&self, path: &str) -> Answer {
        self.with("GET", &format!("/api/v1{path}"), "", b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.with("POST", &format!("/api/v1{path}"), "Content-Type: application/json\r\n", body.to_string().as_bytes())
    }

    /// Sends a picture, and returns its id.
    pub fn upload(&self, name: &str, bytes: &[u8]) -> String {
        let answer = self.with(
            "POST",
            &format!("/api/v1/images?name={name}"),
            "Content-Type: application/octet-stream\r\n",
            bytes,
        );
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// Begins a job, and returns its id.
    pub fn begin(&self, asked: &Value) -> String {
        let answer = self.post("/jobs", asked);
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// Waits until a job is as `is` says, and returns it.
    pub fn wait(&self, id: &str, is: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let job = self.get(&format!("/jobs/{id}")).json();
            if is(&job) {
                return job;
            }
            assert!(begun.elapsed() < Duration::from_secs(300), "{job}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Waits for its end.
    pub fn done(&self, id: &str) -> Value {
        let job = self.wait(id, |job| !["queued", "running"].contains(&job["state"].as_str().unwrap()));
        assert_eq!(job["state"], "done", "{job}");
        job
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn rest_of(child: &mut Child) -> String {
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    said
}

/// Reads an answer up to the end of the connection.
pub fn answer(stream: &mut TcpStream) -> Answer {
    let mut all = Vec::new();
    // A connection that is cut off has an answer, too.
    let _ = stream.read_to_end(&mut all);
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").map_or(all.len(), |end| end + 4);
    let head = String::from_utf8_lossy(&all[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = if head.contains("transfer-encoding: chunked") { joined(&all[end..]) } else { all[end..].to_vec() };
    Answer { status, head, body }
}

/// The parts of a chunked body.
fn joined(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
    }
    body
}
