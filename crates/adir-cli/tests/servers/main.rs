//! Galleries on servers: Qdrant and clip-retrieval, spoken by a server inside the test.

#[path = "../common/mod.rs"]
mod common;
mod server;

use std::fs;
use std::path::{Path, PathBuf};

use adir::encode::spherical_distance;
use adir::retrieve::Index;
use common::{checked, command, expect, json, part};
use serde_json::{Value, json as object};
use server::{Asked, Reply, Server};

const DIMENSION: usize = 1280;

/// A folder with an observation, `y.png`, eight images in `g`, and an index of them.
fn folder(name: &str) -> PathBuf {
    let f = common::folder(name);
    part(&f.join("y.png"), 60, 60, 32);
    for k in 0..8 {
        part(&f.join(format!("g/{k}.png")), 20 + 30 * (k % 3), 10 + 40 * (k / 3), 48);
    }
    expect(0, &f, &["index", "build", "g", "-q"]);
    f
}

/// Paths and vectors of the images in `g`.
fn vectors(f: &Path) -> Vec<(String, Vec<f32>)> {
    let index = Index::open(&f.join("g.index")).unwrap();
    (0..index.len()).map(|id| (index.entry(id).unwrap().path, index.vector(id).unwrap())).collect()
}

/// The nearest of them: numbers and cosines.
fn nearest(all: &[(String, Vec<f32>)], query: &Value, count: usize) -> Vec<(usize, f64)> {
    let query: Vec<f32> = query.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
    assert_eq!(query.len(), DIMENSION);
    let cosine = |(k, (_, vector)): (usize, &(String, Vec<f32>))| (k, spherical_distance(&query, vector).cos());
    let mut found: Vec<_> = all.iter().enumerate().map(cosine).collect();
    found.sort_by(|a, b| b.1.total_cmp(&a.1));
    found.truncate(count);
    found
}

/// What Qdrant says of a collection.
fn collection(vectors: Value) -> Reply {
    let params = object!({"vectors": vectors, "shard_number": 1});
    Reply::json(&object!({"result": {"status": "green", "config": {"params": params}}, "status": "ok", "time": 1e-5}))
}

fn usual() -> Value {
    object!({"size": DIMENSION, "distance": "Cosine"})
}

/// Qdrant with the images of `g`; `payload` is made from a path.
fn qdrant(f: &Path, payload: impl Fn(&str) -> Value + Send + Sync + 'static) -> Server {
    let all = vectors(f);
    Server::start(move |asked| match asked.what.as_str() {
        "GET /collections/my%20photos" => collection(usual()),
        "POST /collections/my%20photos/points/query" => {
            let count = asked.body["limit"].as_u64().unwrap() as usize;
            let point = |(k, cosine): (usize, f64)| object!({"id": k, "version": 3, "score": cosine as f32, "payload": payload(&all[k].0)});
            let points: Vec<_> = nearest(&all, &asked.body["query"], count).into_iter().map(point).collect();
            Reply::json(&object!({"result": {"points": points}, "status": "ok", "time": 1e-3}))
        }
        _ => Reply::new(404, r#"{"status":{"error":"Not found: Collection `x` doesn't exist!"},"time":1e-6}"#),
    })
}

const ADAPT: [&str; 10] =
    ["--iterations", "1", "--adapt-crop", "16", "--adapt-batch", "2", "--lora", "2", "--neighbours", "5"];
const RESTORE: [&str; 9] = ["restore", "y.png", "-o", "x.png", "--task", "sr2", "--overwrite", "--steps", "1"];

/// Restores with an adaptation; the record of the adaptation.
#[track_caller]
fn adapted(f: &Path, more: &[&str]) -> Value {
    expect(0, f, &[&RESTORE[..], &ADAPT, more].concat());
    json(&f.join("x.png.json"))["adaptation"].clone()
}

#[track_caller]
fn refused(code: i32, f: &Path, more: &[&str]) -> String {
    expect(code, f, &[&RESTORE[..], &ADAPT, more].concat()).1
}

fn of_images(adaptation: &Value, what: &str) -> Vec<String> {
    let images = adaptation["images"].as_array().unwrap().iter();
    images.map(|image| image[what].as_str().unwrap().to_owned()).collect()
}

/// An image of `g` behind an address.
fn image(f: &Path, asked: &Asked) -> Option<Reply> {
    let name = asked.what.strip_prefix("GET /images/")?.split('?').next()?.to_owned();
    Some(fs::read(f.join("g").join(name)).map_or_else(|_| Reply::new(404, ""), |bytes| Reply::new(200, bytes)))
}

/// A server of images finds the same as a local index, and what it finds makes the same result, byte for byte.
#[test]
fn a_server_finds_what_an_index_finds() {
    let f = folder("same");
    let server = qdrant(&f, |path| object!({"path": path}));
    let address = format!("qdrant://{}/my photos", server.host);
    let (here, _) = expect(0, &f, &["index", "search", "g.index", "y.png", "-k", "6"]);
    let (there, _) = expect(0, &f, &["index", "search", &address, "y.png", "-k", "6"]);
    let without_distance =
        |text: &str| -> Vec<String> { text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect() };
    assert_eq!(without_distance(&there), without_distance(&here));
    let (json, _) = expect(0, &f, &["index", "search", &address, "y.png", "-k", "1", "--json"]);
    let found: Value = serde_json::from_str(&json).unwrap();
    assert!(here.starts_with(&format!("{:.4} ", found["distance"].as_f64().unwrap())), "{json}{here}");
    assert_eq!(
        server.what(),
        ["GET /collections/my%20photos", "POST /collections/my%20photos/points/query"].repeat(2),
        "nothing else is asked for"
    );

    let local = adapted(&f, &["--gallery", "g.index"]);
    let result = fs::read(f.join("x.png")).unwrap();
    assert!(server.what().is_empty(), "a local gallery opens no connection");
    // The same gallery under other names, adapted to anew.
    let remote = adapted(&f, &["--gallery", &address, "--gallery-images", "g", "--no-cache"]);
    assert_eq!(of_images(&remote, "path"), of_images(&local, "path"));
    assert_eq!(of_images(&remote, "sha256"), of_images(&local, "sha256"));
    assert_eq!(remote["gallery"].as_str(), Some(&*address));
    assert_eq!(fs::read(f.join("x.png")).unwrap(), result);
    let (out, _) = expect(0, &f, &["replay", "x.png.json", "--gallery-images", "g"]);
    assert!(out.contains("x.png"), "{out}");
    fs::remove_dir_all(f).unwrap();
}

/// Images are fetched only with --fetch, each once; what cannot be had is replaced by the next nearest.
#[test]
fn images_are_fetched_only_if_asked() {
    let f = folder("fetch");
    let (here, _) = expect(0, &f, &["index", "search", "g.index", "y.png", "-k", "8"]);
    let local: Vec<String> = here.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect();
    // The nearest is gone, the next is no image.
    let (gone, other) = (local[0].clone(), local[1].clone());
    let folder = f.clone();
    let images = Server::start(move |asked| match asked.what.strip_prefix("GET /images/") {
        Some(name) if name.starts_with(&gone) => Reply::new(404, ""),
        Some(name) if name.starts_with(&other) => Reply::new(200, "<html>no image</html>"),
        Some(name) if name.starts_with("moved") => {
            Reply { header: Some(("Location", format!("/images/{}", &name[5..]))), ..Reply::new(302, "") }
        }
        _ => image(&folder, asked).unwrap_or_else(|| Reply::new(500, "")),
    });
    let host = images.host.clone();
    let server =
        qdrant(&f, move |path| object!({"caption": 7, "url": format!("http://{host}/images/moved{path}?key=geheim")}));
    let address = format!("qdrant://{}/my photos", server.host);
    for more in [&[][..], &["--plan"]] {
        let err = refused(2, &f, &[&["--gallery", &address][..], more].concat());
        assert!(err.contains("--fetch") && err.contains("--gallery-images"), "{err}");
    }
    assert!(images.what().is_empty(), "nothing was fetched");
    let err = refused(2, &f, &["--gallery", &address, "--gallery-images", "g"]);
    assert!(err.contains("fetched with --fetch"), "{err}");
    let err = refused(2, &f, &["--gallery", &address, "--fetch", "--no-cache"]);
    assert!(err.contains("--no-cache"), "{err}");
    assert!(images.what().is_empty(), "nothing was fetched");

    let (_, err) = expect(0, &f, &[&RESTORE[..], &ADAPT, &["--gallery", &address, "--fetch"]].concat());
    assert!(err.contains("2 of the nearest images are left out") && !err.contains("geheim"), "{err}");
    let record = json(&f.join("x.png.json"))["adaptation"].clone();
    let names: Vec<String> = of_images(&record, "path");
    let expected: Vec<String> = local[2..7].iter().map(|path| format!("moved{path}?key=geheim")).collect();
    assert!(names.iter().zip(&expected).all(|(name, end)| name.ends_with(end)) && names.len() == 5, "{names:?}");
    let first = images.what();
    assert_eq!(first.len(), 2 * 7, "each is asked for, and where it has moved to: {first:?}");
    // What was fetched is kept.
    adapted(&f, &["--gallery", &address, "--fetch"]);
    assert_eq!(images.what().len(), 2 * 2, "only what could not be had is asked for again");
    assert!(server.asked().iter().all(|asked| !asked.what.contains("images")));
    fs::remove_dir_all(f).unwrap();
}

/// The key goes to the server that was named, in Qdrant's header, and nowhere else: not to images, logs or records.
#[test]
fn a_key_is_sent_and_never_shown() {
    let f = folder("key");
    let folder = f.clone();
    let images = Server::start(move |asked| image(&folder, asked).unwrap_or_else(|| Reply::new(500, "")));
    let host = images.host.clone();
    let server = qdrant(&f, move |path| object!({"url": format!("http://{host}/images/{path}")}));
    let address = format!("qdrant://{}/my photos", server.host);
    let args = [&RESTORE[..], &ADAPT, &["--gallery", &address, "--fetch", "-v"]].concat();
    let output = command(&f, &args).env("QDRANT_API_KEY", "s3cret").output().unwrap();
    let (out, err) = checked(0, &args, output);
    let record = fs::read_to_string(f.join("x.png.json")).unwrap();
    assert!(![out, err, record].iter().any(|text| text.contains("s3cret")));
    assert!(server.asked().iter().all(|asked| asked.headers["api-key"] == "s3cret"));
    let fetched = images.asked();
    assert!(fetched.len() == 5 && fetched.iter().all(|asked| !asked.headers.contains_key("api-key")));

    let closed = Server::start(|_| Reply::new(401, "Must provide an API key or an Authorization bearer token\n"));
    let address = format!("qdrant://{}/x", closed.host);
    let args = ["index", "search", &address, "y.png"];
    let (_, err) = expect(2, &f, &args);
    assert!(err.contains("answers 401: Must provide") && err.contains("QDRANT_API_KEY to a key"), "{err}");
    let output = command(&f, &args).env("QDRANT_API_KEY", "s3cret").output().unwrap();
    let (_, err) = checked(2, &args, output);
    assert!(err.contains("to another key") && !err.contains("s3cret"), "{err}");
    let output = command(&f, &args).env("QDRANT_API_KEY", "two words").output().unwrap();
    assert!(checked(2, &args, output).1.contains("odd characters"));
    let (_, err) = expect(2, &f, &["index", "search", "qdrant://me:s3cret@127.0.0.1/x", "y.png"]);
    assert!(err.contains("QDRANT_API_KEY") && !err.contains("s3cret"), "{err}");
    fs::remove_dir_all(f).unwrap();
}

/// Whatever a server answers, the program says what is wrong and ends.
#[test]
fn malformed_answers_are_refused() {
    let f = folder("malformed");
    let found = |reply: &Reply, points: Option<Reply>| {
        let (reply, is_known) = (reply.clone(), points.is_some());
        let points = points.unwrap_or_default();
        let server =
            Server::start(move |asked| if asked.what.starts_with("POST") { points.clone() } else { reply.clone() });
        let address = format!("qdrant://{}/x", server.host);
        let (_, err) = expect(3, &f, &["index", "search", &address, "y.png"]);
        assert!(err.contains(&address), "{err}");
        assert_eq!(server.what().iter().any(|what| what.starts_with("POST")), is_known, "{err}");
        err
    };
    let (cosine, many) = (usual(), object!({"a": usual(), "b": usual()}));
    for (reply, hint) in [
        (collection(object!({"size": 512, "distance": "Cosine"})), "vectors of 512 numbers"),
        (collection(object!({"size": DIMENSION, "distance": "Euclid"})), "by Euclid, expected Cosine"),
        (collection(many), "name one of a, b"),
        (collection(object!({"size": "many", "distance": []})), "no description"),
        (collection(object!({})), "no description"),
        (Reply::json(&object!([1, 2])), "no description"),
        (Reply::new(200, "<html>"), "no JSON"),
        (Reply::new(200, "[".repeat(100_000)), "no JSON"),
        (Reply::new(200, "{\"result\":"), "no JSON"),
        (
            Reply::new(404, r#"{"status":{"error":"Not found: Collection `x`"}}"#),
            "answers 404: Not found: Collection `x`",
        ),
        (Reply::new(500, "x".repeat(1 << 20)), "answers 500"),
        (Reply { header: Some(("Location", "http://127.0.0.1:1/".into())), ..Reply::new(302, "") }, "redirects"),
        (Reply { endless: true, ..Reply::new(200, "[") }, "more than 33554432 bytes"),
        (Reply::new(503, "busy"), "answers 503: busy; gave up after 3 tries"),
    ] {
        let err = found(&reply, None);
        assert!(err.contains(hint) && err.len() < 2000, "{hint}: {err}");
    }
    let points = |points: Value| Reply::json(&object!({"result": {"points": points}}));
    for (reply, hint) in [
        (Reply::json(&object!({"result": []})), "no list of points"),
        (points(object!([{"score": 0.5}])), "without an id"),
        (points(object!([{"id": 1, "score": "near"}])), "without a score"),
        (points(object!([{"id": 1, "score": 41.5}])), "which is no cosine"),
        (points(object!([{"id": {"x": 1}, "score": 0.5}])), "without an id"),
        (Reply::new(400, r#"{"status":{"error":"Wrong input: Vector dimension error"}}"#), "answers 400: Wrong input"),
    ] {
        let err = found(&collection(cosine.clone()), Some(reply));
        assert!(err.contains(hint), "{hint}: {err}");
    }
    // Paths that lead out of the folder, and points without one, are no images.
    let server = qdrant(&f, |path| match path {
        "0.png" => object!({"path": "../y.png"}),
        "1.png" => object!({"path": "/etc/passwd"}),
        "2.png" => object!({}),
        path => object!({"path": path}),
    });
    let address = format!("qdrant://{}/my photos", server.host);
    let gallery = ["--gallery", &address, "--gallery-images", "g", "--neighbours", "8"];
    let (_, err) = expect(0, &f, &[&RESTORE[..], &ADAPT[..8], &gallery].concat());
    assert!(err.contains("3 of the nearest images are left out"), "{err}");
    assert_eq!(json(&f.join("x.png.json"))["adaptation"]["images"].as_array().unwrap().len(), 5);
    fs::remove_dir_all(f).unwrap();
}

/// clip-retrieval's server, with the names of its indexes and `/knn-service`.
#[test]
fn clip_retrieval_is_asked_as_its_client_asks() {
    let f = folder("clip-retrieval");
    let all = vectors(&f);
    let server = Server::start(move |asked| match asked.what.as_str() {
        "GET /indices-list" => Reply::json(&object!(["laion", "photos"])),
        "POST /knn-service" => {
            let body = &asked.body;
            assert_eq!((&body["indice_name"], &body["modality"]), (&object!("photos"), &object!("image")));
            let count = body["num_images"].as_u64().unwrap() as usize;
            assert_eq!(body["num_result_ids"], body["num_images"]);
            let found = nearest(&all, &body["embedding_input"], count)
                .into_iter()
                .map(|(k, cosine)| object!({"id": k, "similarity": cosine, "image_path": all[k].0, "caption": "none"}));
            Reply::json(&Value::Array(found.collect()))
        }
        _ => Reply::new(404, ""),
    });
    let address = format!("clip-retrieval://{}/photos", server.host);
    let local = adapted(&f, &["--gallery", "g.index"]);
    let remote = adapted(&f, &["--gallery", &address, "--gallery-images", "g"]);
    assert_eq!(of_images(&remote, "path"), of_images(&local, "path"));
    let (_, err) = expect(3, &f, &["index", "search", &format!("clip-retrieval://{}/x", server.host), "y.png"]);
    assert!(err.contains("no such index; there are: laion, photos"), "{err}");
    let (out, _) = expect(0, &f, &["index", "search", &address, "y.png", "-k", "1", "--gallery-field", "caption"]);
    assert!(out.ends_with("none\n"), "{out}");
    let wrong = Server::start(|asked| match asked.what.as_str() {
        "GET /indices-list" => Reply::json(&object!(["photos"])),
        _ => Reply::new(500, r#"{"message": "Internal Server Error"}"#),
    });
    let (_, err) = expect(3, &f, &["index", "search", &format!("clip-retrieval://{}/photos", wrong.host), "y.png"]);
    assert!(err.contains("answers 500: Internal Server Error (are its vectors of 1280 numbers"), "{err}");
    fs::remove_dir_all(f).unwrap();
}

/// Options for servers mean nothing elsewhere, and addresses of other kinds are no galleries.
#[test]
fn options_for_servers_need_one() {
    let f = folder("options");
    for (more, hint) in [
        (&["--gallery", "g", "--fetch"][..], "--fetch has no effect"),
        (&["--gallery", "g.index", "--gallery-images", "g"], "--gallery-images has no effect"),
        (&["--gallery", "milvus://h/x", "--fetch"], "expected qdrant://HOST/COLLECTION"),
        (&["--gallery", "qdrant://h", "--fetch"], "expected qdrant://HOST/COLLECTION"),
        (&["--gallery", "qdrant://h/x", "--fetch", "--gallery-tiles", "64"], "not divided into tiles"),
        (&["--gallery", "qdrant://h/x", "--fetch", "--gallery-images", "g"], "cannot be used with"),
    ] {
        let err = refused(2, &f, more);
        assert!(err.contains(hint), "{hint}: {err}");
    }
    // Nobody listens there.
    let err = refused(3, &f, &["--gallery", "qdrant://127.0.0.1:1/x", "--fetch"]);
    assert!(err.contains("qdrant://127.0.0.1:1/x: cannot be reached"), "{err}");
    fs::remove_dir_all(f).unwrap();
}
