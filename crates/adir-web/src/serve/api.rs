//! The JSON API. What each address takes and gives is said by `/api/v1/openapi.json`, which is made from this file.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adir::engine::Outputs;
use adir::io::image::{Picture, Reading, read_observation};
use adir::problem::Measurement;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream};
use tokio_stream::{Stream, StreamExt};
use utoipa::{OpenApi, ToSchema};

use super::address::{InPath, InQuery};
use super::error::{Answer, Fault, Kind};
use super::guard::REPORT_POLICY;
use super::id::Id;
use super::jobs::{Change, Job, Jobs, State as JobState};
use super::page;
use super::restoration::{Format, Restoration};
use super::work::Work;
use crate::picture::at_most;

/// Bytes of a JSON body.
const MOST_JSON: usize = 64 << 10;
/// The time in which something of a body must come.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes per second that must come after that time.
const SLOWEST: u64 = 20 << 10;
/// Pixels of a view's longer side, unless another number is asked for.
const VIEW: usize = 1600;
/// Jobs in a list.
const MOST_LISTED: usize = 200;
/// Characters of a picture's name.
const LONGEST_NAME: usize = 200;

/// What handlers share.
#[derive(Clone)]
pub struct Shared {
    /// All that there is.
    pub work: Arc<Work>,
    /// Pictures that are decoded at a time.
    pub decoding: Arc<Semaphore>,
    /// Bytes of an upload.
    pub most_bytes: u64,
    /// Jobs that may wait.
    pub most_waiting: usize,
    /// Names of the devices.
    pub devices: Arc<Vec<String>>,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "adir", description = "Restores images whose degradation is known."),
    paths(info, upload, view_image, plan, preview, add, list, job, cancel, remove, file, events, job_events)
)]
struct Described;

/// All addresses.
pub fn router(shared: Shared) -> Router {
    let api = Router::new()
        .route("/info", get(info))
        .route("/images", post(upload))
        .route("/images/{id}/view", get(view_image))
        .route("/plan", post(plan))
        .route("/preview", post(preview))
        .route("/jobs", get(list).post(add))
        .route("/jobs/{id}", get(job).delete(remove))
        .route("/jobs/{id}/cancel", post(cancel))
        .route("/jobs/{id}/files/{name}", get(file))
        .route("/jobs/{id}/events", get(job_events))
        .route("/events", get(events))
        .route("/openapi.json", get(|| async { Json(Described::openapi()) }));
    Router::new()
        .route("/", get(page::index))
        .route("/{name}", get(page::part))
        .nest("/api/v1", api)
        .fallback(|| async { Fault::not_found("address") })
        .method_not_allowed_fallback(|| async {
            Fault::new(StatusCode::METHOD_NOT_ALLOWED, Kind::NotFound, "this address takes another method")
        })
        .with_state(shared)
}

/// A body in JSON.
struct Asked<T>(T);

impl<T: DeserializeOwned> FromRequest<Shared> for Asked<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &Shared) -> Result<Self, Fault> {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
            return Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Kind::Config, "expected application/json"));
        }
        let mut all = Vec::new();
        receive(request.into_body(), MOST_JSON as u64, |part| {
            all.extend_from_slice(part);
            Ok(())
        })
        .await?;
        let read = serde_json::from_slice(&all);
        read.map(Self).map_err(|e| Fault::new(StatusCode::BAD_REQUEST, Kind::Config, format!("the request: {e}")))
    }
}

/// Reads a body of at most `most` bytes that comes in time.
async fn receive(mut body: Body, most: u64, mut take: impl FnMut(&Bytes) -> Result<(), Fault>) -> Result<(), Fault> {
    let (begun, mut count) = (Instant::now(), 0_u64);
    let too_slow =
        || Fault::new(StatusCode::REQUEST_TIMEOUT, Kind::Limits, "the rest of the request did not come in time");
    loop {
        let next = tokio::time::timeout(PATIENCE, body.frame()).await.map_err(|_| too_slow())?;
        let Some(frame) = next else { return Ok(()) };
        let broken = |_| Fault::new(StatusCode::BAD_REQUEST, Kind::Config, "the request broke off");
        let Ok(part) = frame.map_err(broken)?.into_data() else { continue };
        count += part.len() as u64;
        if count > most {
            let message = format!("more than the {most} bytes that are taken");
            return Err(Fault::new(StatusCode::PAYLOAD_TOO_LARGE, Kind::Limits, message));
        }
        let beyond = begun.elapsed().saturating_sub(PATIENCE).as_secs();
        if beyond > 0 && count < beyond * SLOWEST {
            return Err(too_slow());
        }
        take(&part)?;
    }
}

/// Does what takes a while beside the answers to others, few at a time.
async fn aside<T: Send + 'static>(
    shared: &Shared,
    what: impl FnOnce(&Work) -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let broken = || Fault::failed("the server ends");
    let permit = shared.decoding.clone().acquire_owned().await.map_err(|_| broken())?;
    let work = shared.work.clone();
    let done = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        what(&work)
    });
    done.await.map_err(|_| Fault::failed("the computation broke off"))?
}

/// A task and what it takes.
#[derive(Serialize, ToSchema)]
struct TaskInfo {
    name: &'static str,
    label: &'static str,
    /// `none`, `optional` or `required`.
    kernel: &'static str,
    /// Whether it takes a mask.
    mask: bool,
}

const fn task(name: &'static str, label: &'static str, kernel: &'static str, mask: bool) -> TaskInfo {
    TaskInfo { name, label, kernel, mask }
}

const TASKS: [TaskInfo; 8] = [
    task("sr2", "Enlarge 2 times", "optional", false),
    task("sr3", "Enlarge 3 times", "optional", false),
    task("sr4", "Enlarge 4 times", "optional", false),
    task("sr8", "Enlarge 8 times", "optional", false),
    task("deblur", "Sharpen a blur", "required", false),
    task("inpaint", "Fill missing pixels", "none", true),
    task("denoise", "Remove noise", "none", false),
    task("colourise", "Add colours", "none", false),
];

#[derive(Serialize, ToSchema)]
struct ModelInfo {
    name: String,
    /// Channels of its images; absent where its file cannot be read.
    channels: Option<usize>,
}

#[derive(Serialize, ToSchema)]
struct GalleryInfo {
    name: String,
}

#[derive(Serialize, ToSchema)]
struct LimitInfo {
    upload_bytes: u64,
    queue: usize,
    samples: usize,
}

#[derive(Serialize, ToSchema)]
struct Info {
    version: &'static str,
    models: Vec<ModelInfo>,
    galleries: Vec<GalleryInfo>,
    devices: Vec<String>,
    tasks: Vec<TaskInfo>,
    limits: LimitInfo,
}

/// What this server has.
#[utoipa::path(get, path = "/api/v1/info", responses((status = 200, body = Info)))]
async fn info(State(shared): State<Shared>) -> Json<Info> {
    let work = &shared.work;
    let models = work.models.iter().map(|model| ModelInfo {
        name: model.name.clone(),
        channels: model.engine.header().ok().map(|header| header.info().channels),
    });
    let galleries = work.galleries.iter().map(|(name, _)| GalleryInfo { name: name.clone() });
    Json(Info {
        version: env!("CARGO_PKG_VERSION"),
        models: models.collect(),
        galleries: galleries.collect(),
        devices: shared.devices.to_vec(),
        tasks: TASKS.into(),
        limits: LimitInfo { upload_bytes: shared.most_bytes, queue: shared.most_waiting, samples: work.most_samples },
    })
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

/// A picture that was taken.
#[derive(Serialize, ToSchema)]
struct Taken {
    #[schema(value_type = String)]
    id: Id,
    name: String,
    width: usize,
    height: usize,
    channels: usize,
    /// Bits of a value.
    bits: u64,
    pages: usize,
    warnings: Vec<String>,
}

/// Takes a picture: its file as it is.
#[utoipa::path(post, path = "/api/v1/images", params(("name" = Option<String>, Query, description = "What to call it")),
    request_body(content_type = "application/octet-stream", content = [u8]),
    responses((status = 201, body = Taken), (status = "4XX", body = Answer)))]
async fn upload(
    State(shared): State<Shared>,
    InQuery(Named { name }): InQuery<Named>,
    request: Request,
) -> Result<Response, Fault> {
    let name: String = name.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect();
    let name = if name.trim().is_empty() { "picture".into() } else { name };
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > shared.most_bytes) {
        let message = format!("more than the {} bytes that are taken", shared.most_bytes);
        return Err(Fault::new(StatusCode::PAYLOAD_TOO_LARGE, Kind::Limits, message));
    }
    let id = Id::drawn()?;
    let store = shared.work.store.clone();
    store.tidy();
    let received = async {
        let (mut file, path) = store.begin(id, &name)?;
        receive(request.into_body(), shared.most_bytes, |part| {
            file.write_all(part).map_err(|e| adir::Error::io(&path, e).into())
        })
        .await?;
        drop(file);
        let called = name.clone();
        let picture = aside(&shared, move |work| {
            let limits = *work.model(None)?.engine.limits();
            let read = read_observation(&path, &Reading::default(), &limits);
            read.map_err(|e| Fault::of(&e, &[(&path, &called)]))
        })
        .await?;
        store.keep(id, &name)?;
        Ok::<Picture, Fault>(picture)
    };
    let picture = received.await.inspect_err(|_| store.drop_image(id))?;
    let [_, channels, height, width] = picture.tensor.dims();
    let (bits, pages, warnings) = (8 * picture.bit_depth.bytes(), picture.pages, picture.warnings);
    Ok((StatusCode::CREATED, Json(Taken { id, name, width, height, channels, bits, pages, warnings })).into_response())
}

#[derive(Deserialize)]
struct Side {
    side: Option<usize>,
    page: Option<usize>,
}

/// A picture that was sent, as a browser can show it.
#[utoipa::path(get, path = "/api/v1/images/{id}/view",
    params(("id" = String, Path), ("side" = Option<usize>, Query, description = "Pixels of its longer side at most"),
        ("page" = Option<usize>, Query, description = "Page of a stack, from 1")),
    responses((status = 200, content_type = "image/png", body = [u8]), (status = "4XX", body = Answer)))]
async fn view_image(
    State(shared): State<Shared>,
    InPath(id): InPath<Id>,
    InQuery(Side { side, page }): InQuery<Side>,
) -> Result<Response, Fault> {
    let (upload, path) = shared.work.store.image(id)?;
    view(&shared, path, upload.name, (side, page)).await
}

/// The file as a PNG of at most `side` pixels.
async fn view(
    shared: &Shared,
    path: PathBuf,
    name: String,
    (side, page): (Option<usize>, Option<usize>),
) -> Result<Response, Fault> {
    let mut reading = Reading::default();
    reading.page = page;
    let side = side.unwrap_or(VIEW).clamp(1, 2 * VIEW);
    let png = aside(shared, move |work| {
        let limits = *work.model(None)?.engine.limits();
        let picture = read_observation(&path, &reading, &limits);
        let picture = picture.map_err(|e| Fault::of(&e, &[(&path, &name)]))?;
        Ok(at_most(&picture, side)?.0.to_png()?)
    });
    let png = png.await?;
    Ok(([(CONTENT_TYPE, "image/png"), (CACHE_CONTROL, "private, max-age=3600")], png).into_response())
}

#[derive(Serialize, ToSchema)]
struct Setting {
    name: String,
    value: String,
    /// Where it comes from.
    source: String,
}

/// What a restoration will be.
#[derive(Serialize, ToSchema)]
struct Planned {
    settings: Vec<Setting>,
    warnings: Vec<String>,
    memory_bytes: u64,
    /// The time of the sampling; absent as long as the speed of the model is not known.
    seconds: Option<f64>,
    /// The time of the adaptation at most.
    adaptation_seconds: Option<f64>,
    result: super::jobs::Size,
    /// How the network sees the image, where it does not see all of it at once.
    tiles: Option<String>,
    /// Network evaluations per sample.
    evaluations: usize,
}

/// Checks a restoration, and says what it will take.
#[utoipa::path(post, path = "/api/v1/plan", request_body = Restoration,
    responses((status = 200, body = Planned), (status = "4XX", body = Answer)))]
async fn plan(State(shared): State<Shared>, Asked(asked): Asked<Restoration>) -> Result<Json<Planned>, Fault> {
    aside(&shared, move |work| {
        let plan = work.plan(&asked)?;
        let model = work.model(asked.model.as_deref())?;
        let restore = plan.restore();
        let measurement: &Measurement = restore.measurement();
        let settings = restore.choices().iter().map(|choice| Setting {
            name: choice.name.to_string(),
            value: choice.value.clone(),
            source: choice.source.to_string(),
        });
        let minutes = plan.adaptation_minutes().map(|minutes| 60.0 * minutes);
        Ok(Json(Planned {
            settings: settings.collect(),
            warnings: plan.warnings().to_vec(),
            memory_bytes: plan.memory().most(),
            seconds: model.seconds(plan.products()),
            adaptation_seconds: minutes
                .or_else(|| plan.training_products().and_then(|products| model.seconds(products))),
            result: super::jobs::Size { width: measurement.result().width, height: measurement.result().height },
            tiles: plan
                .tiles()
                .map(|[(down, height), (across, width)]| format!("{across}x{down} of at most {width}x{height} pixels")),
            evaluations: restore.steps(),
        }))
    })
    .await
}

/// What the operator does: the middle of the picture, and beside it what would be measured of it.
#[utoipa::path(post, path = "/api/v1/preview", request_body = Restoration,
    responses((status = 200, content_type = "image/png", body = [u8]), (status = "4XX", body = Answer)))]
async fn preview(State(shared): State<Shared>, Asked(asked): Asked<Restoration>) -> Result<Response, Fault> {
    let png = aside(&shared, move |work| work.preview(&asked)).await?;
    Ok(([(CONTENT_TYPE, "image/png")], png).into_response())
}

/// Puts a restoration into the queue. What cannot be done is refused here.
#[utoipa::path(post, path = "/api/v1/jobs", request_body = Restoration,
    responses((status = 201, body = Job), (status = 429, body = Answer, description = "The queue is full"), (status = "4XX", body = Answer)))]
async fn add(State(shared): State<Shared>, Asked(asked): Asked<Restoration>) -> Result<Response, Fault> {
    let job = aside(&shared, move |work| work.enqueue(asked)).await?;
    Ok((StatusCode::CREATED, [(LOCATION, format!("/api/v1/jobs/{}", job.id))], Json(job)).into_response())
}

#[derive(Deserialize)]
struct Range {
    limit: Option<usize>,
    before: Option<u64>,
}

/// Some jobs.
#[derive(Serialize, ToSchema)]
struct Listed {
    /// The newest first.
    jobs: Vec<Job>,
    /// How many wait.
    queued: usize,
}

/// Jobs, the newest first.
#[utoipa::path(get, path = "/api/v1/jobs",
    params(("limit" = Option<usize>, Query, description = "At most so many, 1 to 200"),
        ("before" = Option<u64>, Query, description = "Only those with smaller numbers")),
    responses((status = 200, body = Listed)))]
async fn list(State(shared): State<Shared>, InQuery(Range { limit, before }): InQuery<Range>) -> Json<Listed> {
    let (jobs, queued) = shared.work.jobs.list(before, limit.unwrap_or(50).clamp(1, MOST_LISTED));
    Json(Listed { jobs, queued })
}

/// A job.
#[utoipa::path(get, path = "/api/v1/jobs/{id}", params(("id" = String, Path)),
    responses((status = 200, body = Job), (status = "4XX", body = Answer)))]
async fn job(State(shared): State<Shared>, InPath(id): InPath<Id>) -> Result<Json<Job>, Fault> {
    shared.work.jobs.get(id).map(Json)
}

/// Ends a job: one that waits at once, one that runs after its present step.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/cancel", params(("id" = String, Path)),
    responses((status = 200, body = Job), (status = "4XX", body = Answer)))]
async fn cancel(State(shared): State<Shared>, InPath(id): InPath<Id>) -> Result<Json<Job>, Fault> {
    shared.work.jobs.cancel(id).map(Json)
}

/// Removes a job and its files, and ends it before if need be.
#[utoipa::path(delete, path = "/api/v1/jobs/{id}", params(("id" = String, Path)),
    responses((status = 204), (status = "4XX", body = Answer)))]
async fn remove(State(shared): State<Shared>, InPath(id): InPath<Id>) -> Result<StatusCode, Fault> {
    shared.work.jobs.remove(id).map(|()| StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct How {
    view: Option<u8>,
    side: Option<usize>,
    download: Option<u8>,
}

/// A file of a job: `image`, `record`, `report`, `observation`, `mask`, `ignore`, `sample-1` and so on, `deviation`, `heat`, `thumbnail`,
/// or `preview` while it runs.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/files/{name}",
    params(("id" = String, Path), ("name" = String, Path),
        ("view" = Option<u8>, Query, description = "1: as a PNG that a browser can show"),
        ("side" = Option<usize>, Query, description = "Pixels of a view's longer side at most"),
        ("download" = Option<u8>, Query, description = "1: to be saved")),
    responses((status = 200, body = [u8]), (status = "4XX", body = Answer)))]
async fn file(
    State(shared): State<Shared>,
    InPath((id, name)): InPath<(Id, String)>,
    InQuery(How { view: as_view, side, download }): InQuery<How>,
) -> Result<Response, Fault> {
    let job = shared.work.jobs.get(id)?;
    if name == "preview" {
        let png = shared.work.jobs.preview(id)?;
        return Ok(([(CONTENT_TYPE, "image/png")], png.as_slice().to_vec()).into_response());
    }
    let (path, kind) = file_of(&shared, &job, &name).ok_or_else(|| Fault::not_found("file"))?;
    if as_view == Some(1) && kind.starts_with("image/") {
        let page = job.restoration.page.filter(|_| name == "observation");
        return view(&shared, path, job.name, (side, page)).await;
    }
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if name == "report" {
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(REPORT_POLICY));
    }
    if job.state.is_final() {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, max-age=3600"));
    }
    if download == Some(1) {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let saved = format!("attachment; filename*=UTF-8''{}", encoded(&saved_as(&job.name, &name, ending)));
        headers.insert(CONTENT_DISPOSITION, HeaderValue::from_str(&saved).map_err(|e| Fault::failed(e.to_string()))?);
    }
    Ok((headers, sent(path)?).into_response())
}

/// The file of a job by the name that clients know, and its kind.
fn file_of(shared: &Shared, job: &Job, name: &str) -> Option<(PathBuf, &'static str)> {
    let store = &shared.work.store;
    let folder = store.job_folder(job.id);
    if matches!(name, "observation" | "mask" | "ignore") {
        let path = store.taken(job.id, name)?;
        return Some((path, "image/x-as-sent"));
    }
    if job.state != JobState::Done || !job.files.iter().any(|known| known == name) {
        return None;
    }
    let outputs = Outputs::new(&folder.join(job.restoration.format.file()), job.samples);
    let picture = match job.restoration.format {
        Format::Png => "image/png",
        Format::Tif => "image/tiff",
        Format::Jpg => "image/jpeg",
        Format::Webp => "image/webp",
    };
    Some(match name {
        "image" => (outputs.image, picture),
        "record" => (outputs.record, "application/json"),
        "report" => (outputs.image.with_extension("html"), "text/html; charset=utf-8"),
        "thumbnail" => (folder.join("thumbnail.png"), "image/png"),
        "deviation" => (outputs.deviation?.map, "image/png"),
        "heat" => (outputs.deviation?.heat, "image/png"),
        _ => {
            let number: usize = name.strip_prefix("sample-")?.parse().ok()?;
            (outputs.samples.into_iter().nth(number.checked_sub(1)?)?, picture)
        }
    })
}

/// What a file is called where it is saved.
fn saved_as(name: &str, what: &str, ending: &str) -> String {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let stem: String = stem.chars().map(|c| if c == '/' || c == '\\' { '_' } else { c }).collect();
    match what {
        "observation" => format!("{stem}.observed.{ending}"),
        "record" | "report" | "image" => format!("{stem}.restored.{ending}"),
        _ => format!("{stem}.restored.{what}.{ending}"),
    }
}

/// RFC 8187.
fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// The bytes of a file, a part at a time.
fn sent(path: PathBuf) -> Result<Body, Fault> {
    let mut file = std::fs::File::open(&path).map_err(|_| Fault::not_found("file"))?;
    let (send, parts) = mpsc::channel::<std::io::Result<Bytes>>(4);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut part = vec![0; 64 << 10];
            let read = file.read(&mut part);
            let part = match read {
                Ok(0) => return,
                Ok(count) => Ok(Bytes::copy_from_slice(&part[..count])),
                Err(e) => Err(e),
            };
            let failed = part.is_err();
            // The client may have gone.
            if send.blocking_send(part).is_err() || failed {
                return;
            }
        }
    });
    Ok(Body::from_stream(ReceiverStream::new(parts)))
}

/// What happens to all jobs, as server-sent events: `job` with a job for each change of one, those that have not ended first;
/// `gone` with the id of one that was removed.
#[utoipa::path(get, path = "/api/v1/events", responses((status = 200, content_type = "text/event-stream", body = String)))]
async fn events(State(shared): State<Shared>) -> impl IntoResponse {
    let (changes, open) = shared.work.jobs.listen();
    // Whoever is too slow to be told of everything begins anew.
    let changes = BroadcastStream::new(changes).take_while(Result::is_ok).filter_map(Result::ok);
    stream(tokio_stream::iter(open).chain(changes).map(|change| event(&change)))
}

/// The same of one job, up to its end.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/events", params(("id" = String, Path)),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = "4XX", body = Answer)))]
async fn job_events(State(shared): State<Shared>, InPath(id): InPath<Id>) -> Result<impl IntoResponse, Fault> {
    let jobs: &Jobs = &shared.work.jobs;
    let (changes, _) = jobs.listen();
    let now = Change::Job(Arc::new(jobs.get(id)?));
    let of = move |change: &Change| match change {
        Change::Job(job) => job.id == id,
        Change::Gone(gone) => *gone == id,
    };
    let changes = BroadcastStream::new(changes).take_while(Result::is_ok).filter_map(Result::ok).filter(of);
    let changes = tokio_stream::iter([now]).chain(changes);
    // The end itself is told; what would come after it is not waited for.
    let changes = until_end(changes);
    Ok(stream(changes.map(|change| event(&change))))
}

/// Up to the change after which nothing comes, that one included.
fn until_end(changes: impl Stream<Item = Change> + Send + 'static) -> impl Stream<Item = Change> + Send {
    let (send, told) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut changes = std::pin::pin!(changes);
        while let Some(change) = changes.next().await {
            let last =
                matches!(&change, Change::Gone(_)) || matches!(&change, Change::Job(job) if job.state.is_final());
            if send.send(change).await.is_err() || last {
                return;
            }
        }
    });
    ReceiverStream::new(told)
}

fn event(change: &Change) -> Result<Event, Infallible> {
    Ok(match change {
        Change::Job(job) => Event::default().event("job").data(serde_json::to_string(job.as_ref()).unwrap_or_default()),
        Change::Gone(id) => Event::default().event("gone").data(format!("{{\"id\":\"{id}\"}}")),
    })
}

fn stream(events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> impl IntoResponse {
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}
