//! A server that restores pictures: a page for people, a JSON API for programs. All the work is the engine's.
//!
//! A [`Server`] has models and galleries that were named at its start, and a folder for uploads, jobs and results. Jobs are
//! computed in the order in which they came, one at a time on each device, and wait through a restart. Nothing that a client
//! sends becomes a path, and only pages of this server may ask. It opens no connections.

mod address;
mod api;
mod error;
mod guard;
mod id;
mod jobs;
mod listen;
mod page;
mod restoration;
mod runner;
mod store;
mod work;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use adir::engine::Engine;
use adir::{Error, Result};
use tokio::sync::Semaphore;

use self::api::Shared;
use self::guard::Guard;
use self::id::Id;
use self::jobs::Jobs;
use self::runner::Served;
use self::store::Store;
use self::work::Work;

/// Bytes of the stack of a thread that computes.
const STACK: usize = 32 << 20;
/// Pictures that are decoded and plans that are made at a time.
const ASIDE: usize = 2;

/// Something that the server tells who runs it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Notice {
    /// It listens.
    Listening {
        /// What to open in a browser; it holds the token, if one is needed.
        address: String,
    },
    /// A job was begun.
    Began {
        /// Its number.
        number: u64,
        /// What its client calls the picture.
        name: String,
    },
    /// A job has ended.
    Ended {
        /// Its number.
        number: u64,
        /// What its client calls the picture.
        name: String,
        /// `done`, `cancelled`, or why it failed.
        outcome: String,
        /// The time it took.
        seconds: f64,
    },
}

/// A token that nobody can guess: 128 bits.
///
/// # Errors
/// [`Error::Backend`] where the system has no random numbers.
pub fn drawn_token() -> Result<String> {
    Id::drawn().map(|id| id.to_string()).map_err(|fault| Error::Backend(fault.told.message))
}

/// Takes notices, on any thread.
pub type Tell = Arc<dyn Fn(&Notice) + Send + Sync>;

/// A device with its models: each a name and an engine.
pub type Device = Vec<(String, Engine)>;

/// What is served, and to whom.
pub struct Server {
    /// Where to listen; port 0 takes any that is free.
    pub listen: SocketAddr,
    /// Names by which clients may call this server, besides its address: `name` or `name:port`.
    pub hosts: Vec<String>,
    /// What clients must know; needed unless only this machine can connect.
    pub token: Option<String>,
    /// The folder for uploads, jobs and results.
    pub data: PathBuf,
    /// Galleries by name: folders or indexes.
    pub galleries: Vec<(String, PathBuf)>,
    /// Devices; all have the same models in the same order.
    pub devices: Vec<Device>,
    /// Bytes of an upload at most.
    pub most_bytes: u64,
    /// Jobs that may wait.
    pub most_waiting: usize,
    /// Jobs that have ended and are kept.
    pub kept: usize,
    /// Samples of a job at most.
    pub most_samples: usize,
}

impl Server {
    /// Serves until `stop` says so; a job that runs then stops after its step, and goes on when the next server has this folder.
    ///
    /// # Errors
    /// [`Error::Config`] where a token is missing, two names are alike, nothing is to be served, or another server has the
    /// folder; [`Error::Io`] where the system refuses to listen or to write.
    pub fn run(self, stop: impl Fn() -> bool, tell: Tell) -> Result<()> {
        self.check()?;
        let store = Arc::new(Store::open(&self.data)?);
        store.sweep();
        store.tidy();
        let placements = self.devices.iter().filter_map(|models| models.first());
        let devices: Vec<String> = placements.map(|(_, engine)| engine.placement().0.to_owned()).collect();
        let served = self.devices.into_iter().map(|models| {
            Arc::new(models.into_iter().map(|(name, engine)| Served::new(name, engine)).collect::<Vec<_>>())
        });
        let served: Vec<_> = served.collect();
        let Some(first) = served.first() else { return Err(Error::config("no device to compute with")) };
        let work = Arc::new(Work {
            jobs: Jobs::new(store.clone(), self.most_waiting, self.kept),
            store,
            models: first.clone(),
            galleries: self.galleries,
            most_samples: self.most_samples,
        });
        let shared = Shared {
            work: work.clone(),
            decoding: Arc::new(Semaphore::new(ASIDE)),
            most_bytes: self.most_bytes,
            most_waiting: self.most_waiting,
            devices: Arc::new(devices),
        };
        let guard = Arc::new(Guard { hosts: self.hosts, token: self.token });
        let listening = listen::open(self.listen)?;
        let runners: Vec<_> = served
            .into_iter()
            .map(|models| {
                let (work, tell) = (work.clone(), tell.clone());
                let run = move || runner::run(&models, &work, &tell);
                thread::Builder::new().name("adir".into()).stack_size(STACK).spawn(run)
            })
            .collect::<std::io::Result<_>>()
            .map_err(|e| Error::Limits(format!("no thread to compute on: {e}")))?;
        let served = listening.serve(shared, guard, &stop, &tell);
        work.jobs.end_all();
        for runner in runners {
            if runner.join().is_err() {
                return Err(Error::Backend("a thread that computes broke off".into()));
            }
        }
        served
    }

    fn check(&self) -> Result<()> {
        if self.token.is_none() && !self.listen.ip().is_loopback() {
            return Err(Error::config("others can connect to this address: a token is needed"));
        }
        let models = self.devices.first().into_iter().flatten().map(|(name, _)| name);
        let galleries = self.galleries.iter().map(|(name, _)| name);
        twice(models, "models")?;
        twice(galleries, "galleries")
    }
}

fn twice<'a>(names: impl Iterator<Item = &'a String>, what: &str) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Error::config(format!("two {what} are called {name}: give names, as in NAME=PATH")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    /// Nothing that the server adds to the engine opens connections or knows TLS. (Of the engine, the lock file names packages
    /// of features that no build has.)
    #[test]
    fn no_client_is_in_the_tree() {
        let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock")).unwrap();
        let mut needs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for package in lock.split("[[package]]").skip(1) {
            let name = package.split("name = \"").nth(1).unwrap().split('"').next().unwrap();
            let listed = package.split("dependencies = [").nth(1).unwrap_or_default();
            let names = listed.split('"').skip(1).step_by(2).map(|entry| entry.split(' ').next().unwrap());
            needs.entry(name).or_default().extend(names);
        }
        let (mut tree, mut open) = (BTreeSet::from(["adir"]), vec!["adir-web"]);
        while let Some(name) = open.pop() {
            if tree.insert(name) {
                open.extend(needs.get(name).into_iter().flatten());
            }
        }
        assert!(tree.contains("hyper") && tree.contains("tokio"), "{tree:?}");
        for client in ["ureq", "reqwest", "curl", "isahc", "attohttpc", "rustls", "native-tls", "hickory-resolver"] {
            assert!(!tree.contains(client), "{client}");
        }
    }
}
