//! The queue: jobs in the order in which they came, one running on each device.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use utoipa::ToSchema;

use super::error::{Fault, Kind, Told};
use super::id::Id;
use super::restoration::Restoration;
use super::store::Store;

/// A job that was begun so often and never ended is not begun again: it may be what ends the server.
const ATTEMPTS: u32 = 10;
/// Changes that wait for a slow reader.
const WAITING: usize = 4096;

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It waits.
    Queued,
    /// It is computed.
    Running,
    /// Its result is there.
    Done,
    /// It could not be done.
    Failed,
    /// It was ended by a client.
    Cancelled,
}

impl State {
    /// Whether nothing more comes.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// How far a running job is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// `loading`, `indexing`, `searching`, `adapting`, `sampling` or `saving`.
    pub phase: String,
    /// Steps taken.
    pub done: usize,
    /// Steps of this phase in all; 0 where that is not known.
    pub total: usize,
    /// The same in words.
    pub text: String,
    /// The time that this phase will still take.
    pub seconds_left: Option<f64>,
    /// The number of the last preview; 0 if there is none.
    pub previews: usize,
}

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Size {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
}

/// A restoration in the queue, or one that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// What it is called in addresses.
    #[schema(value_type = String)]
    pub id: Id,
    /// Its place in the order of all jobs.
    pub number: u64,
    /// What the client calls y.
    pub name: String,
    /// The task.
    pub task: String,
    /// Where it is.
    pub state: State,
    /// Jobs before it, while it waits.
    pub position: Option<usize>,
    /// When it came, in seconds since 1970.
    pub created: f64,
    /// When it was begun.
    pub started: Option<f64>,
    /// When it ended.
    pub finished: Option<f64>,
    /// What was asked for.
    pub restoration: Restoration,
    /// How far it is, while it runs.
    pub progress: Option<Progress>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// `PASS` or `WARN`: whether the result agrees with y.
    pub verdict: Option<String>,
    /// The same in a line.
    pub summary: Option<String>,
    /// Why it failed.
    pub error: Option<Told>,
    /// The size of the result.
    pub result: Option<Size>,
    /// Number of samples.
    pub samples: usize,
    /// Files that can be had, by the names that addresses take.
    pub files: Vec<String>,
    /// Seconds of computing.
    pub seconds: Option<f64>,
    /// How often it was begun.
    #[serde(default)]
    pub attempts: u32,
    /// Whether a client has asked for its end while it ran.
    #[serde(default)]
    pub ending: bool,
}

/// Something that a stream of events tells.
#[derive(Debug, Clone)]
pub enum Change {
    /// A job is now like this.
    Job(Arc<Job>),
    /// It is no more.
    Gone(Id),
}

/// A job with what only this run of the server knows.
struct Entry {
    job: Job,
    stop: Arc<AtomicBool>,
    preview: Option<Arc<Vec<u8>>>,
    /// Whether it is to go when it has ended.
    removed: bool,
}

#[derive(Default)]
struct Book {
    entries: BTreeMap<u64, Entry>,
    numbers: HashMap<Id, u64>,
    /// The number given last.
    last: u64,
}

impl Book {
    fn entry(&mut self, id: Id) -> Result<&mut Entry, Fault> {
        let number = self.numbers.get(&id).ok_or_else(|| Fault::not_found("job"))?;
        self.entries.get_mut(number).ok_or_else(|| Fault::not_found("job"))
    }

    fn remove(&mut self, id: Id) {
        if let Some(number) = self.numbers.remove(&id) {
            self.entries.remove(&number);
        }
    }

    fn add(&mut self, job: Job) {
        self.last = self.last.max(job.number);
        self.numbers.insert(job.id, job.number);
        let stop = Arc::new(AtomicBool::new(false));
        self.entries.insert(job.number, Entry { job, stop, preview: None, removed: false });
    }

    fn waiting(&self) -> impl Iterator<Item = &Job> {
        self.entries.values().map(|entry| &entry.job).filter(|job| job.state == State::Queued)
    }
}

/// The queue and the history.
pub struct Jobs {
    book: Mutex<Book>,
    /// Something waits, or the server ends.
    wake: Condvar,
    changes: broadcast::Sender<Change>,
    store: Arc<Store>,
    most_waiting: usize,
    kept: usize,
    ending: AtomicBool,
}

/// A job to be computed.
pub struct Begun {
    /// It.
    pub job: Job,
    /// Whether it is to stop.
    pub stop: Arc<AtomicBool>,
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl Jobs {
    /// With the jobs of earlier servers: those that waited or ran wait again, in their order.
    pub fn new(store: Arc<Store>, most_waiting: usize, kept: usize) -> Self {
        let mut book = Book::default();
        let mut jobs = store.jobs();
        jobs.sort_by_key(|job| job.number);
        for mut job in jobs {
            job.progress = None;
            if job.state == State::Running {
                job.state = State::Queued;
            }
            if job.ending && !job.state.is_final() {
                (job.state, job.finished) = (State::Cancelled, Some(now()));
                let _ = store.save(&job);
            }
            if job.state == State::Queued && job.attempts >= ATTEMPTS {
                let message = format!("the server ended {ATTEMPTS} times while it computed this");
                fail(&mut job, Told { fault: Kind::Backend, message, hint: None });
                // It is told again after the next start, if this cannot be written.
                let _ = store.save(&job);
            }
            book.add(job);
        }
        let (changes, _) = broadcast::channel(WAITING);
        let (wake, ending) = (Condvar::new(), AtomicBool::new(false));
        Self { book: Mutex::new(book), wake, changes, store, most_waiting, kept, ending }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        // Every change leaves the book whole.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What changes from now on, and the jobs that have not ended.
    pub fn listen(&self) -> (broadcast::Receiver<Change>, Vec<Change>) {
        let book = self.lock();
        let open = book.entries.values().filter(|entry| !entry.job.state.is_final());
        let open = open.map(|entry| Change::Job(Arc::new(shown(&book, &entry.job)))).collect();
        (self.changes.subscribe(), open)
    }

    /// Whether anybody listens.
    pub fn is_watched(&self) -> bool {
        self.changes.receiver_count() > 0
    }

    fn tell(&self, book: &Book, job: &Job) {
        if self.is_watched() {
            // The last listener may have gone since.
            let _ = self.changes.send(Change::Job(Arc::new(shown(book, job))));
        }
    }

    /// Refuses a job where too many wait.
    pub fn check_room(&self) -> Result<(), Fault> {
        room(&self.lock(), self.most_waiting)
    }

    /// Puts a job at the end of the queue. Its files are there.
    pub fn add(&self, id: Id, name: String, restoration: Restoration, warnings: Vec<String>) -> Result<Job, Fault> {
        let mut book = self.lock();
        room(&book, self.most_waiting)?;
        book.last += 1;
        let number = book.last;
        let job = Job {
            id,
            number,
            name,
            task: restoration.task.clone(),
            state: State::Queued,
            position: None,
            created: now(),
            started: None,
            finished: None,
            samples: restoration.samples,
            restoration,
            progress: None,
            warnings,
            verdict: None,
            summary: None,
            error: None,
            result: None,
            files: Vec::new(),
            seconds: None,
            attempts: 0,
            ending: false,
        };
        self.store.save(&job)?;
        book.add(job.clone());
        self.tell(&book, &job);
        let job = shown(&book, &job);
        self.forget_old(&mut book);
        self.wake.notify_one();
        Ok(job)
    }

    /// Drops the oldest of those that have ended, where there are more than are kept.
    fn forget_old(&self, book: &mut Book) {
        let ended: Vec<Id> =
            book.entries.values().filter(|entry| entry.job.state.is_final()).map(|entry| entry.job.id).collect();
        for id in ended.iter().take(ended.len().saturating_sub(self.kept)) {
            if self.store.remove(*id).is_ok() {
                self.forget(book, *id);
            }
        }
    }

    /// A job.
    pub fn get(&self, id: Id) -> Result<Job, Fault> {
        let mut book = self.lock();
        let job = book.entry(id)?.job.clone();
        Ok(shown(&book, &job))
    }

    /// The newest jobs before number `before`, and how many wait.
    pub fn list(&self, before: Option<u64>, limit: usize) -> (Vec<Job>, usize) {
        let book = self.lock();
        let newest = book.entries.range(..before.unwrap_or(u64::MAX)).rev().take(limit);
        let jobs = newest.map(|(_, entry)| shown(&book, &entry.job)).collect();
        let queued = book.waiting().count();
        (jobs, queued)
    }

    /// What the newest preview of a job shows, as a PNG file.
    pub fn preview(&self, id: Id) -> Result<Arc<Vec<u8>>, Fault> {
        self.lock().entry(id)?.preview.clone().ok_or_else(|| Fault::not_found("preview"))
    }

    /// Ends a job: one that waits at once, one that runs after its present step.
    pub fn cancel(&self, id: Id) -> Result<Job, Fault> {
        let mut book = self.lock();
        let entry = book.entry(id)?;
        match entry.job.state {
            State::Running => {
                entry.job.ending = true;
                self.store.save(&entry.job)?;
                entry.stop.store(true, Ordering::Relaxed);
            }
            State::Queued => {
                entry.job.state = State::Cancelled;
                entry.job.finished = Some(now());
                self.store.save(&entry.job)?;
            }
            _ => return Err(Fault::new(StatusCode::CONFLICT, Kind::Conflict, "it has ended already")),
        }
        let job = entry.job.clone();
        self.tell(&book, &job);
        Ok(shown(&book, &job))
    }

    /// Removes a job and its files; one that runs goes after its present step.
    pub fn remove(&self, id: Id) -> Result<(), Fault> {
        let mut book = self.lock();
        let entry = book.entry(id)?;
        if entry.job.state == State::Running {
            // Without this file there is no job after a restart; the others go when it has stopped.
            self.store.disown(id)?;
            entry.removed = true;
            entry.stop.store(true, Ordering::Relaxed);
            return Ok(());
        }
        self.store.remove(id)?;
        self.forget(&mut book, id);
        Ok(())
    }

    /// Drops a job whose files are gone, and the picture that was sent for it if no other job is about that.
    fn forget(&self, book: &mut Book, id: Id) {
        let image = book.entry(id).ok().map(|entry| entry.job.restoration.image);
        book.remove(id);
        let is_used = |image: Id| book.entries.values().any(|entry| entry.job.restoration.image == image);
        image.filter(|image| !is_used(*image)).into_iter().for_each(|image| self.store.drop_image(image));
        let _ = self.changes.send(Change::Gone(id));
    }

    /// Waits for a job that `can` be computed by the caller, and begins it; `None` when the server ends.
    pub fn begin(&self, can: impl Fn(&Job) -> bool) -> Option<Begun> {
        let mut book = self.lock();
        loop {
            if self.ending.load(Ordering::Relaxed) {
                return None;
            }
            let next = book.waiting().find(|job| can(job)).map(|job| job.number);
            if let Some(entry) = next.and_then(|number| book.entries.get_mut(&number)) {
                entry.job.state = State::Running;
                entry.job.started = Some(now());
                entry.job.attempts += 1;
                let begun = Begun { job: entry.job.clone(), stop: entry.stop.clone() };
                // If this cannot be written, the job waits again after a restart, as it should.
                let _ = self.store.save(&begun.job);
                let places: Vec<Job> = book.waiting().cloned().collect();
                self.tell(&book, &begun.job);
                places.iter().for_each(|job| self.tell(&book, job));
                return Some(begun);
            }
            book = self.wake.wait(book).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Changes a job that runs, and tells of it. What changes while it runs is not written.
    pub fn update(&self, id: Id, change: impl FnOnce(&mut Job)) {
        let mut book = self.lock();
        if let Ok(entry) = book.entry(id) {
            change(&mut entry.job);
            let job = entry.job.clone();
            self.tell(&book, &job);
        }
    }

    /// Keeps a preview of a job that runs.
    pub fn show(&self, id: Id, png: Vec<u8>) {
        if let Ok(entry) = self.lock().entry(id) {
            entry.preview = Some(Arc::new(png));
        }
    }

    /// Ends a job that ran.
    pub fn end(&self, id: Id, change: impl FnOnce(&mut Job)) {
        let mut book = self.lock();
        let Ok(entry) = book.entry(id) else { return };
        entry.job.progress = None;
        entry.job.finished = Some(now());
        entry.preview = None;
        change(&mut entry.job);
        if entry.removed {
            // Without its description it is no job any more; the rest is swept at the next start.
            let _ = self.store.remove(id);
            self.forget(&mut book, id);
            return;
        }
        let job = entry.job.clone();
        if let Err(fault) = self.store.save(&job) {
            // The result may be there, but the server does not know of it after a restart.
            entry.job.warnings.push(fault.told.message);
        }
        let job = entry.job.clone();
        self.tell(&book, &job);
        self.forget_old(&mut book);
    }

    /// Puts a job that ran back: the server ends, and the next one goes on with it.
    pub fn put_back(&self, id: Id) {
        let mut book = self.lock();
        if let Ok(entry) = book.entry(id) {
            if entry.removed {
                let _ = self.store.remove(id);
                return;
            }
            if entry.job.ending {
                (entry.job.state, entry.job.progress, entry.job.finished) = (State::Cancelled, None, Some(now()));
                let _ = self.store.save(&entry.job);
                return;
            }
            entry.job.state = State::Queued;
            entry.job.progress = None;
            // It was not the job that ended the server.
            entry.job.attempts = entry.job.attempts.saturating_sub(1);
            let _ = self.store.save(&entry.job);
        }
    }

    /// Ends: nothing more is begun, and what runs stops after its present step.
    pub fn end_all(&self) {
        let book = self.lock();
        self.ending.store(true, Ordering::Relaxed);
        book.entries.values().for_each(|entry| entry.stop.store(true, Ordering::Relaxed));
        self.wake.notify_all();
    }

    /// Whether the server ends.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }
}

fn room(book: &Book, most: usize) -> Result<(), Fault> {
    match book.waiting().count() {
        waiting if waiting >= most => {
            let message = format!("{waiting} jobs are waiting, and no more may: try again later");
            Err(Fault::new(StatusCode::TOO_MANY_REQUESTS, Kind::Busy, message))
        }
        _ => Ok(()),
    }
}

/// A job that failed.
pub fn fail(job: &mut Job, told: Told) {
    job.state = State::Failed;
    job.error = Some(told);
}

/// The job with its place in the queue.
fn shown(book: &Book, job: &Job) -> Job {
    let position =
        (job.state == State::Queued).then(|| book.waiting().filter(|other| other.number < job.number).count());
    Job { position, ..job.clone() }
}
