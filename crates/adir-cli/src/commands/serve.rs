//! `adir serve`: restores pictures in the browser.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use adir::compute::Precision;
use adir::engine::{Engine, EngineBuilder};
use adir::io::limits::Limits;
use adir::models::stable_diffusion::LatentFiles;
use adir::{Error, Result};
use adir_web::serve::{Device, Notice, Server, drawn_token};
use clap::Args;

use crate::adaptation::engine_with;
use crate::log::Log;
use crate::memory;
use crate::model::precision;
use crate::store::{Store, user_folder};

/// Restore pictures in the browser: a page, and a JSON API, on this machine.
///
/// Open the address that is printed. Pictures are dropped on the page, restored one after the other, and kept with their
/// results until they are deleted there. Jobs go on after a restart. Programs use the same server: /api/v1/openapi.json
/// describes its API. It opens no connections, and clients reach no files but the galleries and models named here.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address and port; port 0 takes one that is free. If other machines can connect to the address, a token is needed: it
    /// is part of the address that is printed. The connection is not encrypted: put a proxy with TLS in front of it
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8421", value_parser = listen)]
    listen: SocketAddr,
    /// A gallery that clients may choose: a folder or an index; its name on the page is that of the folder, unless one is given.
    /// May be repeated
    #[arg(long = "gallery", value_name = "[NAME=]FOLDER")]
    galleries: Vec<Named>,
    /// A model that clients may choose, besides the embedded one: guided-diffusion's .pt or safetensors. The first is the
    /// default. May be repeated
    #[arg(short = 'm', long = "model", value_name = "[NAME=]WEIGHTS")]
    models: Vec<Named>,
    /// Folder for uploads, jobs and results [default: the user's data folder]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// A name by which clients call this server, besides its address: that of a proxy in front of it. May be repeated
    #[arg(long = "host", value_name = "NAME[:PORT]")]
    hosts: Vec<String>,
    /// Ask for a token even if only this machine can connect, to keep out its other users
    #[arg(long)]
    require_token: bool,
    /// File with the token, 16 characters or more [default: one is drawn at every start]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Largest size of an uploaded picture, in MB
    #[arg(long, value_name = "MB", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=4096))]
    max_upload: u64,
    /// Largest number of waiting jobs; more are refused
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = crate::args::at_least_one::<usize>)]
    queue: usize,
    /// Number of finished jobs that are kept; the oldest are deleted first
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = crate::args::at_least_one::<usize>)]
    keep: usize,
    /// Largest number of samples per job
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = crate::args::at_least_one::<usize>)]
    max_samples: usize,
    /// cpu or, in builds with that feature, cuda, vulkan, metal or rocm; :N picks the N-th GPU. One job runs on each: may be
    /// repeated
    #[arg(long = "device", value_name = "DEVICE", default_value = "cpu")]
    devices: Vec<String>,
    /// Precision the networks compute in
    #[arg(long, default_value = "f32", value_parser = precision())]
    dtype: Precision,
    /// Image encoder that finds the nearest images of a gallery: a CLIP model [default: the embedded EfficientNet-Lite0]
    #[arg(long, value_name = "WEIGHTS", value_parser = crate::hub::model_path())]
    encoder: Option<PathBuf>,
    /// Memory limit for jobs, in GB [default: what is free at the start]
    #[arg(long, value_name = "GB", value_parser = crate::args::above_zero)]
    max_memory: Option<f64>,
    #[command(flatten)]
    store: Store,
}

/// A path and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    name: String,
    path: PathBuf,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = match text.split_once('=') {
            Some((name, path)) if !Path::new(text).exists() => (Some(name), path),
            _ => (None, text),
        };
        let path = PathBuf::from(path);
        let own = || Some(std::path::absolute(&path).ok()?.file_stem()?.to_string_lossy().into_owned());
        let name = name.map(str::to_owned).or_else(own).unwrap_or_default();
        if name.trim().is_empty() || name.chars().any(char::is_control) {
            return Err("expected NAME=PATH with a name".into());
        }
        Ok(Self { name, path })
    }
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, "8421"));
    let host = if host == "localhost" { "127.0.0.1" } else { host };
    let ip: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    let address = ip.zip(port.parse().ok()).map(SocketAddr::from);
    address.ok_or_else(|| "expected an address and a port, such as 127.0.0.1:8421, [::1]:8421 or 0.0.0.0:8421".into())
}

impl ServeArgs {
    fn token(&self) -> Result<Option<String>> {
        if let Some(file) = &self.token_file {
            let text = fs::read_to_string(file).map_err(|e| Error::io(file, e))?;
            let token = text.trim();
            if token.len() < 16 || !token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b)) {
                let message = "holds no token: expected 16 characters or more, letters, digits, and - _ . ~";
                return Err(Error::input(file, message));
            }
            return Ok(Some(token.to_owned()));
        }
        let is_needed = self.require_token || !self.listen.ip().is_loopback();
        is_needed.then(drawn_token).transpose()
    }

    fn builder(&self, device: &str) -> EngineBuilder {
        let most = self.max_memory.map(|gb| (gb * 1e9) as u64);
        let free = memory::available().into_iter().chain(most).min();
        let builder = Engine::builder().device(device).precision(self.dtype).memory(free);
        let builder = builder.limits(most.map_or_else(Limits::default, Limits::within));
        let builder = match &self.encoder {
            Some(encoder) => builder.clip(encoder),
            None => builder,
        };
        engine_with(builder, &self.store, false)
    }

    /// The models on a device. Names and shapes of their weights are looked at now.
    fn device(&self, device: &str) -> Result<Device> {
        let mut models = Vec::new();
        for Named { name, path } in &self.models {
            if LatentFiles::recognised(path, false)?.is_some() {
                let message = "is a latent diffusion model, which the server does not take: adir restore, adir edit";
                return Err(Error::model(path, message));
            }
            let engine = self.builder(device).model(path, None).build()?;
            engine.header()?;
            models.push((name.clone(), engine));
        }
        models.push(("embedded".into(), self.builder(device).build()?));
        Ok(models)
    }

    fn server(&self) -> Result<Server> {
        for Named { path, .. } in &self.galleries {
            fs::metadata(path).map_err(|e| Error::io(path, e))?;
        }
        let data = match &self.data {
            Some(folder) => folder.clone(),
            None => user_folder("XDG_DATA_HOME", ".local/share")
                .ok_or_else(|| Error::config("cannot determine the data folder: give one with --data FOLDER"))?
                .join("serve"),
        };
        Ok(Server {
            listen: self.listen,
            hosts: self.hosts.clone(),
            token: self.token()?,
            data,
            galleries: self.galleries.iter().map(|named| (named.name.clone(), named.path.clone())).collect(),
            devices: self.devices.iter().map(|device| self.device(device)).collect::<Result<_>>()?,
            most_bytes: self.max_upload * 1_000_000,
            most_waiting: self.queue,
            kept: self.keep,
            most_samples: self.max_samples,
        })
    }
}

pub fn run(args: &ServeArgs, log: &Log) -> Result<u8> {
    let told = log.clone();
    let tell = move |notice: &Notice| match notice {
        Notice::Listening { address } => {
            // Who started it with its output closed knows the address.
            let _ = say(address);
        }
        Notice::Began { number, name } => told.detail(&format!("job {number} ({name}): begun")),
        Notice::Ended { number, name, outcome, seconds } => {
            told.info(&format!("job {number} ({name}): {outcome}, {seconds:.1} s"));
        }
        _ => {}
    };
    args.server()?.run(|| log.flow().is_break(), Arc::new(tell))?;
    Ok(crate::exit::DONE)
}

fn say(address: &str) -> Result<()> {
    say!("{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_read() {
        let at = |text: &str| listen(text).map(|address| address.to_string());
        assert_eq!(at("localhost:80").unwrap(), "127.0.0.1:80");
        assert_eq!(at("0.0.0.0").unwrap(), "0.0.0.0:8421");
        assert_eq!(at("[::1]:0").unwrap(), "[::1]:0");
        assert!(["", ":80", "example.org:80", "127.0.0.1:x", "127.0.0.1:70000"].iter().all(|text| at(text).is_err()));
        let named = |text: &str| text.parse::<Named>();
        assert_eq!(named("scans=/a/b").unwrap(), Named { name: "scans".into(), path: "/a/b".into() });
        assert_eq!(named("/a/herbarium/").unwrap().name, "herbarium");
        assert!(["=x", "/", ""].iter().all(|text| named(text).is_err()));
    }
}
