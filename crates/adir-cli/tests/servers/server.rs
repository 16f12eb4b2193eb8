//! A server of the tests' own, which answers what a test says.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// A question.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Method and path.
    pub what: String,
    pub headers: BTreeMap<String, String>,
    pub body: Value,
}

/// An answer: status, a header besides the usual ones, and body.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub header: Option<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The body is followed by more, and has no length.
    pub endless: bool,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub fn json(body: &Value) -> Self {
        Self::new(200, body.to_string())
    }
}

/// A running server.
pub struct Server {
    /// `HOST:PORT`.
    pub host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (answer, noted) = (Arc::new(answer), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, noted) = (answer.clone(), noted.clone());
                std::thread::spawn(move || {
                    let Some((question, mut stream)) = read(stream) else { return };
                    noted.lock().unwrap().push(question.clone());
                    let _ = send(&mut stream, &answer(&question));
                });
            }
        });
        Self { host, asked }
    }

    /// The questions since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    /// What was asked since the last call.
    pub fn what(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.what).collect()
    }
}

fn read(stream: TcpStream) -> Option<(Asked, TcpStream)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let what = format!("{} {}", words.next()?, words.next()?);
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Some((Asked { what, headers, body }, reader.into_inner()))
}

fn send(stream: &mut TcpStream, reply: &Reply) -> std::io::Result<()> {
    let Reply { status, header, body, endless } = reply;
    if *status == 0 {
        return Ok(());
    }
    write!(stream, "HTTP/1.1 {status} X\r\nConnection: close\r\n")?;
    if let Some((name, value)) = header {
        write!(stream, "{name}: {value}\r\n")?;
    }
    if !endless {
        write!(stream, "Content-Length: {}\r\n", body.len())?;
    }
    write!(stream, "\r\n")?;
    stream.write_all(body)?;
    if *endless {
        loop {
            stream.write_all(&[b' '; 1 << 16])?;
        }
    }
    stream.flush()
}
