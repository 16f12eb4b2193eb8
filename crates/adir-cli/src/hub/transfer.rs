//! One file from the Hub into its part, and the part into a file once its hash is right.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use adir::{Error, Result};

use super::blob::Hashing;
use super::http::{Answer, Failure, Hub, Patience, header};
use super::listing::Facts;
use crate::log::Log;

/// Bytes read at once.
const CHUNK: usize = 256 << 10;
/// A try that got that many bytes counts as a success.
const PROGRESS: u64 = 4 << 20;

/// A file to be had.
pub struct Transfer<'a> {
    pub hub: &'a Hub,
    pub log: &'a Log,
    pub name: &'a str,
    pub url: &'a str,
    pub facts: &'a Facts,
}

/// A file that is growing.
struct Part<'a> {
    path: &'a Path,
    file: File,
    at: u64,
    hashing: Hashing,
}

impl Transfer<'_> {
    /// Makes `blob`, going on with the part that an earlier run left. `tick` gets the bytes that are there.
    ///
    /// # Errors
    /// [`Error::Model`] if the server sends something else than it promised, [`Error::Io`] where the system takes no more,
    /// and [`Error::Interrupted`]; a part that can be gone on with is left.
    pub fn run(&self, part: &Path, blob: &Path, tick: &mut dyn FnMut(u64)) -> Result<()> {
        let mut growing = self.open(part)?;
        let mut is_old = growing.at > 0;
        loop {
            self.fill(&mut growing, tick)?;
            let found = std::mem::replace(&mut growing.hashing, self.facts.digest.start(self.facts.size)).finish();
            let Some((kind, digits)) = found.filter(|(_, digits)| digits != self.facts.digest.name()) else { break };
            let message = format!("{kind} {digits}, but the Hub states {}", self.facts.digest.name());
            if !is_old {
                drop(growing);
                fs::remove_file(part).map_err(|e| Error::io(part, e))?;
                return Err(Error::model(self.url, format!("arrived with the {message}; it was deleted")));
            }
            // The part of the earlier run may be the wrong one.
            self.log.warn(&format!(
                "{}: the part of an earlier run was wrong ({message}): once more from the start",
                self.name
            ));
            self.restart(&mut growing)?;
            is_old = false;
        }
        growing.file.sync_all().map_err(|e| Error::io(part, e))?;
        drop(growing);
        fs::rename(part, blob).map_err(|e| Error::io(blob, e))
    }

    /// The part, with the hash of what is there.
    fn open<'p>(&self, path: &'p Path) -> Result<Part<'p>> {
        let failed = |e| Error::io(path, e);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        let mut part = Part { path, file, at: 0, hashing: self.facts.digest.start(self.facts.size) };
        if part.file.metadata().map_err(failed)?.len() > self.facts.size {
            self.restart(&mut part)?;
        }
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = part.file.read(&mut chunk).map_err(failed)?;
            if read == 0 {
                return Ok(part);
            }
            part.hashing.update(&chunk[..read]);
            part.at += read as u64;
            self.log.check()?;
        }
    }

    /// Begins anew.
    fn restart(&self, part: &mut Part<'_>) -> Result<()> {
        let emptied = part.file.set_len(0).and_then(|()| part.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|e| Error::io(part.path, e))?;
        (part.at, part.hashing) = (0, self.facts.digest.start(self.facts.size));
        Ok(())
    }

    /// Requests what is missing until all is there.
    fn fill(&self, part: &mut Part<'_>, tick: &mut dyn FnMut(u64)) -> Result<(), Failure> {
        let mut patience = Patience::default();
        tick(part.at);
        while part.at < self.facts.size {
            let before = part.at;
            let Err(failure) = self.request(part, tick) else { continue };
            if part.at >= before + PROGRESS {
                patience.renew();
            }
            patience.wait(failure, self.log)?;
        }
        Ok(())
    }

    /// One request.
    fn request(&self, part: &mut Part<'_>, tick: &mut dyn FnMut(u64)) -> Result<(), Failure> {
        let answer = self.hub.get(self.url, part.at)?;
        if let Some(linked) = answer.linked.as_ref().filter(|linked| **linked != self.facts.digest) {
            let (listed, linked) = (self.facts.digest.name(), linked.name());
            return Err(Failure::of(self.url, format!("is listed with the hash {listed}, and sent with {linked}")));
        }
        match answer.status {
            206 => self.check_range(&answer, part.at)?,
            // The server knows no ranges, or not this one.
            _ if part.at > 0 => self.restart(part)?,
            _ => {}
        }
        if answer.status == 416 {
            return Err(Failure::passing(self.url, "answers 416"));
        }
        let left = self.facts.size - part.at;
        let length = header(&answer.headers, "content-length").and_then(|text| text.parse::<u64>().ok());
        if let Some(length) = length.filter(|length| *length != left) {
            return Err(Failure::of(self.url, format!("announces {length} bytes where {left} are expected")));
        }
        self.copy(&mut answer.reader(), part, tick)
    }

    /// Whether the server sends what follows the part.
    fn check_range(&self, answer: &Answer, at: u64) -> Result<(), Failure> {
        let range = header(&answer.headers, "content-range").unwrap_or_default();
        let size = self.facts.size;
        let expected = format!("bytes {at}-{}/", size - 1);
        let total = range.strip_prefix(expected.as_str());
        if at > 0 && total.is_some_and(|total| total == "*" || total.parse() == Ok(size)) {
            return Ok(());
        }
        Err(Failure::of(self.url, format!("sends {range:?} where {expected}{size} was expected")))
    }

    /// Appends what arrives.
    fn copy(&self, from: &mut impl Read, part: &mut Part<'_>, tick: &mut dyn FnMut(u64)) -> Result<(), Failure> {
        let mut chunk = vec![0; CHUNK];
        let broken = |why: &str| Failure::passing(self.name, format!("the connection ended early: {why}"));
        loop {
            self.log.check()?;
            let read = match from.read(&mut chunk) {
                Ok(0) if part.at < self.facts.size => return Err(broken("the rest is missing")),
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(e) => return Err(broken(&e.to_string())),
            };
            if part.at + read as u64 > self.facts.size {
                return Err(Failure::of(self.url, format!("sends more than the {} bytes it has", self.facts.size)));
            }
            part.file.write_all(&chunk[..read]).map_err(|e| Error::io(part.path, e))?;
            part.hashing.update(&chunk[..read]);
            part.at += read as u64;
            tick(part.at);
        }
    }
}
