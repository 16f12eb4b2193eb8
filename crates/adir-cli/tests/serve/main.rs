//! `adir serve` from outside: its API, whom it refuses, and what it survives.
#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;

mod client;
mod hostile;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use adir::io::image::{WriteOptions, write_image};
use adir::tensor::{Tensor, cpu};
use client::Server;
use common::{expect, folder, picture};
use serde_json::{Value, json};

/// A folder with a picture of that size in `y.png`, and its bytes.
fn with_picture(name: &str, side: usize) -> (PathBuf, Vec<u8>) {
    let folder = folder(name);
    picture(&folder.join("y.png"), side, side);
    let bytes = fs::read(folder.join("y.png")).unwrap();
    (folder, bytes)
}

/// What the program itself makes of the same request.
fn by_the_program(folder: &Path, args: &[&str]) -> Vec<u8> {
    let all: Vec<&str> =
        ["restore", "y.png", "-o", "x.png", "--no-cache"].into_iter().chain(args.iter().copied()).collect();
    expect(0, folder, &all);
    fs::read(folder.join("x.png")).unwrap()
}

#[test]
fn a_job_gives_the_bytes_of_the_program() {
    let (folder, y) = with_picture("job", 32);
    let server = Server::start(&folder, &[]);
    let image = server.upload("my%20photo.png", &y);
    let asked = json!({"image": image, "task": "sr2", "aim": 1.0, "samples": 2, "seed": 7});
    let plan = server.post("/plan", &asked).json();
    assert_eq!(plan["result"], json!({"width": 64, "height": 64}));
    assert!(plan["memory_bytes"].as_u64().unwrap() > 1 << 20, "{plan}");
    assert!(plan["settings"].as_array().unwrap().iter().any(|setting| setting["name"] == "aim"), "{plan}");
    let preview = server.post("/preview", &asked);
    assert!(preview.status == 200 && preview.body.starts_with(b"\x89PNG"));
    let id = server.begin(&asked);
    let job = server.done(&id);
    assert_eq!((&job["name"], &job["verdict"]), (&json!("my photo.png"), &json!("PASS")), "{job}");
    let expected = by_the_program(&folder, &["--task", "sr2", "--aim", "1", "--samples", "2", "--seed", "7"]);
    let file = |name: &str| server.get(&format!("/jobs/{id}/files/{name}"));
    assert_eq!(file("image").body, expected);
    assert_eq!(file("sample-2").body, fs::read(folder.join("x.2.png")).unwrap());
    assert_eq!(file("heat").body, fs::read(folder.join("x.heat.png")).unwrap());
    assert_eq!(file("observation").body, y);
    for name in job["files"].as_array().unwrap() {
        assert_eq!(file(name.as_str().unwrap()).status, 200, "{name}");
    }
    let record: Value = file("record").json();
    assert_eq!(record["seed"], 7);
    let report = file("report");
    assert!(report.head.contains("content-security-policy: sandbox"), "{}", report.head);
    let saved = file("image?download=1").head;
    assert!(saved.contains("filename*=utf-8''my%20photo.restored.png"), "{saved}");
    for name in ["sample-0", "sample-3", "job.json", "x.png", "..", "mask"] {
        assert_eq!(file(name).status, 404, "{name}");
    }
    assert_eq!(server.with("DELETE", &format!("/api/v1/jobs/{id}"), "", b"").status, 204);
    assert_eq!(file("image").status, 404);
    for part in ["data/jobs", "data/images"] {
        assert_eq!(fs::read_dir(folder.join(part)).unwrap().count(), 0, "{part}");
    }
    // A number is given once.
    let image = server.upload("y.png", &y);
    let drawn = json!({"image": image, "task": "denoise", "sigma": 10, "seed": -1});
    assert_eq!(server.post("/plan", &drawn).status, 200);
    let next = server.done(&server.begin(&drawn));
    assert_eq!(next["number"], 2);
    assert!(next["restoration"]["seed"].as_i64().unwrap() > 0, "{next}");
    server.end();
}

#[test]
fn masks_kernels_and_galleries_are_taken_by_id_and_name() {
    let (folder, y) = with_picture("side", 32);
    let gallery = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/gallery");
    let server = Server::start(&folder, &["--gallery", &format!("g={}", gallery.display())]);
    let image = server.upload("y.png", &y);
    common::quarter_mask(&folder.join("m.png"), 32);
    let mask = server.upload("m.png", &fs::read(folder.join("m.png")).unwrap());
    let none = Tensor::zeros([1, 3, 32, 32], &cpu()).add_scalar(-1.0);
    write_image(&folder.join("black.png"), &none, &WriteOptions::default()).unwrap();
    let black = server.upload("black.png", &fs::read(folder.join("black.png")).unwrap());
    let done = |asked: Value| {
        let id = server.begin(&asked);
        server.done(&id);
        server.get(&format!("/jobs/{id}/files/image")).body
    };
    let inpainted = done(json!({"image": image, "task": "inpaint", "mask": mask}));
    assert_eq!(inpainted, by_the_program(&folder, &["--task", "inpaint", "--mask", "m.png"]));
    fs::remove_file(folder.join("x.png")).unwrap();
    fs::remove_file(folder.join("x.png.json")).unwrap();
    let sharpened = done(json!({"image": image, "task": "deblur", "kernel": "box:3", "sigma": 2}));
    assert_eq!(sharpened, by_the_program(&folder, &["--task", "deblur", "--kernel", "box:3", "--sigma", "2"]));
    let plan = server
        .post("/plan", &json!({"image": image, "task": "sr2", "gallery": "g", "neighbours": 4, "adapt_minutes": 0.1}));
    assert_eq!(plan.json()["adaptation_seconds"], 6.0);
    for (wrong, says) in [
        (json!({"image": image, "task": "sr2", "gallery": "h"}), "no such gallery"),
        (json!({"image": image, "task": "sr2", "model": "h"}), "no such model"),
        (json!({"image": image, "task": "sr2", "mask": mask}), "no meaning for the task sr2"),
        (json!({"image": image, "task": "deblur"}), "needs a kernel"),
        (json!({"image": image, "task": "deblur", "kernel": "m.png"}), "m.png"),
        (json!({"image": image, "task": "sr2", "samples": 17}), "at most 16"),
        (json!({"image": "0".repeat(32), "task": "sr2"}), "no such picture"),
        (json!({"image": image, "task": "sr2", "seed": -2}), "-1 to draw one"),
        (json!({"image": image, "task": "inpaint", "mask": black}), "the mask: the mask marks no pixel"),
    ] {
        let answer = server.post("/jobs", &wrong);
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!((400..500).contains(&answer.status) && message.contains(says), "{message}");
        assert!(!message.contains("data/"), "{message}");
    }
    for (address, status) in [("/jobs/xyz", 404), ("/jobs?limit=abc", 400), ("/images/1/view?side=-1", 404)] {
        let answer = server.get(address);
        assert!(
            answer.status == status && answer.json()["error"]["message"].is_string(),
            "{address}: {}",
            answer.status
        );
    }
    let damaged = server.with("POST", "/api/v1/images?name=d.png", "", &y[..y.len() / 2]);
    assert_eq!(damaged.status, 422, "{:?}", damaged.head);
    assert!(damaged.json()["error"]["message"].as_str().unwrap().starts_with("d.png: "));
}

/// A pixel that a telescope did not observe is filled in, as by the program.
#[test]
fn pixels_that_were_not_observed_are_taken() {
    const SIDE: usize = 32;
    let (folder, _) = with_picture("unobserved", SIDE);
    let server = Server::start(&folder, &[]);
    let cards = ["SIMPLE  =                    T", "BITPIX  =                  -32", "NAXIS   =                    2"];
    let sides = [1, 2].map(|axis| format!("NAXIS{axis}  = {SIDE:>20}"));
    let cards = cards.iter().copied().chain(sides.iter().map(String::as_str)).chain(["END"]);
    let mut file = cards.map(|card| format!("{card:<80}")).collect::<String>().into_bytes();
    file.resize(2880, b' ');
    let value = |i: usize| if i == 100 { f32::NAN } else { 0.3 + 0.01 * (i % SIDE) as f32 };
    file.extend((0..SIDE * SIDE).flat_map(|i| value(i).to_be_bytes()));
    file.resize(3 * 2880, 0);
    let image = server.upload("y.fits", &file);
    let asked = json!({"image": image, "task": "denoise", "sigma": 3});
    assert_eq!(server.post("/preview", &asked).status, 200);
    let id = server.begin(&asked);
    server.done(&id);
    assert_eq!(server.get(&format!("/jobs/{id}")).json()["state"], "done");
}

#[test]
fn events_tell_of_every_step_and_end_with_the_job() {
    let (folder, y) = with_picture("events", 48);
    let server = Server::start(&folder, &[]);
    let image = server.upload("y.png", &y);
    let id = server.begin(&json!({"image": image, "task": "sr2", "samples": 8, "aim": 1.0}));
    let mut stream = server.connect();
    write!(stream, "GET /api/v1/jobs/{id}/events HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", server.address)
        .unwrap();
    let lines: Vec<String> = BufReader::new(stream).lines().map_while(Result::ok).collect();
    let jobs = lines
        .iter()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|text| serde_json::from_str::<Value>(text).unwrap());
    let jobs: Vec<Value> = jobs.collect();
    let states: Vec<&str> = jobs.iter().map(|job| job["state"].as_str().unwrap()).collect();
    assert_eq!(states.last(), Some(&"done"));
    assert_eq!(states.iter().filter(|state| **state == "done").count(), 1);
    let of_sampling = jobs.iter().filter(|job| job["progress"]["phase"] == "sampling");
    let done: Vec<u64> = of_sampling.map(|job| job["progress"]["done"].as_u64().unwrap()).collect();
    assert!(done.len() > 2 && done.is_sorted(), "{done:?}");
    let previews = jobs.iter().filter_map(|job| job["progress"]["previews"].as_u64()).max();
    assert!(previews > Some(0), "{previews:?}");
}

/// What is running goes on after a kill, with the same bytes, before what waits; what has ended is still there.
#[test]
fn jobs_survive_a_restart() {
    let (folder, y) = with_picture("restart", 96);
    let server = Server::start(&folder, &[]);
    let image = server.upload("y.png", &y);
    let first = server.begin(&json!({"image": image, "task": "denoise", "sigma": 25, "aim": 0}));
    server.done(&first);
    let long = json!({"image": image, "task": "sr2", "samples": 4, "aim": 1.0, "seed": 3});
    let second = server.begin(&long);
    let third = server.begin(&json!({"image": image, "task": "denoise", "sigma": 20}));
    server.wait(&second, |job| job["progress"]["done"].as_u64() > Some(3));
    server.kill();
    let server = Server::start(&folder, &[]);
    let (second, third) = (server.done(&second), server.done(&third));
    assert!(second["finished"].as_f64() < third["started"].as_f64(), "{second} {third}");
    assert_eq!(second["attempts"], 2);
    assert_eq!(server.done(&first)["verdict"], "PASS");
    let made = server.get(&format!("/jobs/{}/files/image", second["id"].as_str().unwrap())).body;
    assert_eq!(made, by_the_program(&folder, &["--task", "sr2", "--samples", "4", "--aim", "1", "--seed", "3"]));
    // Of two servers, one has the folder.
    let (_, refused) = expect(2, &folder, &["serve", "--listen", "127.0.0.1:0", "--data", "data"]);
    assert!(refused.contains("another server uses this folder"), "{refused}");
    server.end();
}

/// What a client has ended or deleted does not come back, even if the server is killed before the job has stopped.
#[test]
fn what_was_ended_stays_ended() {
    let (folder, y) = with_picture("ended", 96);
    for deleted in [false, true] {
        let server = Server::start(&folder, &[]);
        let image = server.upload("y.png", &y);
        let id = server.begin(&json!({"image": image, "task": "sr2", "samples": 16, "aim": 1.0}));
        server.wait(&id, |job| job["progress"]["done"].as_u64() > Some(1));
        let (method, path) = if deleted { ("DELETE", "") } else { ("POST", "/cancel") };
        assert!(server.with(method, &format!("/api/v1/jobs/{id}{path}"), "", b"").status < 300);
        server.kill();
        let server = Server::start(&folder, &[]);
        let found = server.get(&format!("/jobs/{id}"));
        match deleted {
            true => assert_eq!(found.status, 404),
            false => assert_eq!(found.json()["state"], "cancelled"),
        }
        let left = fs::read_dir(folder.join("data/jobs")).unwrap().count();
        assert_eq!(left, 1, "only the job that was cancelled");
    }
}

#[test]
fn jobs_that_wait_or_run_can_be_ended() {
    let (folder, y) = with_picture("cancel", 96);
    let server = Server::start(&folder, &["--queue", "2"]);
    let image = server.upload("y.png", &y);
    let long = json!({"image": image, "task": "sr2", "samples": 16, "aim": 1.0});
    let running = server.begin(&long);
    server.wait(&running, |job| job["state"] == "running");
    let (waiting, last) = (server.begin(&long), server.begin(&long));
    assert_eq!(server.get(&format!("/jobs/{last}")).json()["position"], 1);
    let full = server.post("/jobs", &long);
    assert_eq!((full.status, &full.json()["error"]["fault"]), (429, &json!("busy")));
    let cancel = |id: &str| server.with("POST", &format!("/api/v1/jobs/{id}/cancel"), "", b"");
    assert_eq!(cancel(&waiting).json()["state"], "cancelled");
    assert_eq!(cancel(&running).status, 200);
    let ended = server.wait(&running, |job| job["state"] != "running");
    assert_eq!((&ended["state"], &ended["error"]), (&json!("cancelled"), &Value::Null));
    assert_eq!(cancel(&running).status, 409);
    server.wait(&last, |job| job["state"] == "running");
    assert_eq!(server.with("DELETE", &format!("/api/v1/jobs/{last}"), "", b"").status, 204);
    let gone = server.get(&format!("/jobs/{last}"));
    assert!([200, 404].contains(&gone.status));
}

/// As many requests as come at once are carried out in the order in which they were taken.
#[test]
fn two_hundred_requests_at_once_keep_their_order() {
    let (folder, y) = with_picture("many", 16);
    let server = Server::start(&folder, &[]);
    let image = server.upload("y.png", &y);
    let ids: Vec<String> = std::thread::scope(|scope| {
        let begin = |seed: usize| server.begin(&json!({"image": image, "task": "denoise", "sigma": 10, "seed": seed}));
        let threads: Vec<_> = (0..200).map(|seed| scope.spawn(move || begin(seed))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut jobs: Vec<Value> = ids.iter().map(|id| server.done(id)).collect();
    jobs.sort_by_key(|job| job["number"].as_u64());
    assert!(jobs.iter().map(|job| job["number"].as_u64().unwrap()).eq(1..=200));
    assert!(jobs.iter().map(|job| job["started"].as_f64().unwrap()).is_sorted());
    let listed = server.get("/jobs?limit=200").json();
    assert_eq!((listed["jobs"].as_array().unwrap().len(), &listed["queued"]), (200, &json!(0)));
    let seeds: std::collections::BTreeSet<u64> =
        jobs.iter().map(|job| job["restoration"]["seed"].as_u64().unwrap()).collect();
    assert_eq!(seeds.len(), 200);
}

/// Every address is described, and what is described is there.
#[test]
fn the_api_describes_itself() {
    let (folder, _) = with_picture("described", 16);
    let server = Server::start(&folder, &[]);
    let described = server.get("/openapi.json").json();
    let code = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../adir-web/src/serve/api.rs")).unwrap();
    let routes: Vec<&str> =
        code.lines().filter_map(|line| line.trim().strip_prefix(".route(\"/")?.split('"').next()).collect();
    let paths = described["paths"].as_object().unwrap();
    let of_api: Vec<&&str> = routes.iter().filter(|route| !["", "{name}", "openapi.json"].contains(route)).collect();
    assert!(of_api.len() >= 11);
    for route in of_api {
        assert!(paths.contains_key(&format!("/api/v1/{route}")), "{route}");
    }
    let asked = &described["components"]["schemas"]["Restoration"];
    assert_eq!(asked["required"], json!(["image", "task"]));
    assert!(asked["properties"]["aim"]["description"].as_str().unwrap().contains("faithful"));
}
