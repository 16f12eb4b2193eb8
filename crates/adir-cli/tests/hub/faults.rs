//! Servers and disks that fail, and what is left then.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::{checked, folder};
use crate::server::{self, Asked, COMMIT, Hub, Reply, bytes, ranged, sha256};
use crate::{check_small, expect, model, names, small};

const PULL: [&str; 3] = ["models", "pull", "org/small"];

/// The large file of [`small`].
fn large() -> Vec<u8> {
    bytes(300_000, 1)
}

fn is_large(asked: &Asked) -> bool {
    asked.path.ends_with(&sha256(&large()))
}

/// A Hub whose large file comes as `reply` has it.
fn hub_with(reply: impl Fn(&Asked, usize) -> Option<Reply> + Send + 'static) -> Hub {
    Hub::start(
        vec![("org/small", small())],
        Box::new(move |asked, k| if is_large(asked) { reply(asked, k) } else { None }),
    )
}

/// What was asked of the large file: where each request began.
fn ranges(hub: &Hub) -> Vec<Option<String>> {
    hub.asked().into_iter().filter(is_large).map(|asked| asked.header("range").map(str::to_owned)).collect()
}

fn part(folder: &std::path::Path) -> std::path::PathBuf {
    model(folder, "org/small").join("blobs").join(format!("{}.incomplete", sha256(&large())))
}

#[test]
fn a_connection_that_breaks_is_gone_on_with() {
    let f = folder("cut");
    let hub = hub_with(|asked, k| (k < 2).then(|| Reply { cut: Some(100_000), ..ranged(asked, &large()) }));
    let (_, err) = expect(0, &hub, &f, &PULL);
    assert_eq!(err.matches("the connection ended early").count(), 2, "{err}");
    check_small(&f, "org/small");
    let from = |at: usize| Some(format!("bytes={at}-"));
    assert_eq!(ranges(&hub), [None, from(100_000), from(200_000)]);
}

#[test]
fn a_pull_that_was_killed_is_gone_on_with() {
    let f = folder("killed");
    let hub = hub_with(|asked, k| {
        (k == 0)
            .then(|| Reply { cut: Some(100_000), delay: Duration::from_millis(10), ..ranged(asked, &large()) })
            .or_else(|| (k == 1).then(|| Reply { delay: Duration::from_secs(60), ..ranged(asked, &large()) }))
    });
    let mut child = hub.command(&f, &PULL).spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while ranges(&hub).len() < 2 {
        assert!(Instant::now() < end, "the second request never came");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fs::metadata(part(&f)).unwrap().len(), 100_000);
    assert!(!model(&f, "org/small").join("refs").exists(), "what is not complete is not found");
    let (_, err) = expect(2, &hub, &f, &["models", "info", "--model", &format!("org/small@{}", "0".repeat(40))]);
    assert!(err.contains("adir models pull"), "{err}");
    let (plan, _) = expect(0, &hub, &f, &["models", "pull", "org/small", "--plan"]);
    assert!(plan.contains("(100.0 kB are there)") && plan.contains("200.0 kB to download"), "{plan}");
    let (out, _) = expect(0, &hub, &f, &["models", "list"]);
    assert!(out.contains("of an unfinished download"), "{out}");
    expect(0, &hub, &f, &PULL);
    check_small(&f, "org/small");
    assert_eq!(ranges(&hub)[2].as_deref(), Some("bytes=100000-"));
}

#[test]
fn ctrl_c_leaves_a_part_and_says_so() {
    let f = folder("ctrl-c");
    // It trickles: between any two reads the program looks whether it is to stop.
    let hub = hub_with(|asked, k| {
        let delay = Duration::from_secs(2);
        Some(match k {
            0 => Reply { cut: Some(50_000), ..ranged(asked, &large()) },
            1 => Reply { delay, cut: Some(100_000), ..ranged(asked, &large()) },
            _ => ranged(asked, &large()),
        })
    });
    let child = hub
        .command(&f, &PULL)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while ranges(&hub).len() < 2 {
        assert!(Instant::now() < end, "the second request never came");
        std::thread::sleep(Duration::from_millis(20));
    }
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let (_, err) = checked(130, &PULL, child.wait_with_output().unwrap());
    assert!(err.contains("the same command goes on from there"), "{err}");
    assert!(fs::metadata(part(&f)).unwrap().len() >= 50_000);
    expect(0, &hub, &f, &PULL);
    check_small(&f, "org/small");
}

#[test]
fn a_server_that_is_busy_is_asked_again_as_it_wishes() {
    let f = folder("busy");
    let busy = |asked: &Asked, k: usize| {
        let is_api = asked.path.starts_with("/api/");
        ((is_api && k < 2) || (is_large(asked) && k < 4)).then(|| Reply::new(503).with("Retry-After", 0))
    };
    let hub = Hub::start(vec![("org/small", small())], Box::new(busy));
    let (_, err) = expect(0, &hub, &f, &PULL);
    assert_eq!(err.matches("answers 503: trying again in 0.0 s").count(), 6, "{err}");
    check_small(&f, "org/small");
    // But not for ever.
    let f = folder("too-busy");
    let hub = hub_with(|_, _| Some(Reply::new(503).with("Retry-After", 0)));
    let (_, err) = expect(4, &hub, &f, &PULL);
    assert!(err.contains("answers 503; gave up after 5 tries"), "{err}");
    assert_eq!(ranges(&hub).len(), 5);
}

#[test]
fn bytes_with_the_wrong_hash_are_deleted() {
    let f = folder("hash");
    let hub = hub_with(|asked, k| (k == 0).then(|| ranged(asked, &bytes(300_000, 9))));
    let (_, err) = expect(4, &hub, &f, &PULL);
    assert!(
        err.contains(&sha256(&large())) && err.contains(&sha256(&bytes(300_000, 9))) && !err.contains("models info")
    );
    assert!(!part(&f).exists() && !model(&f, "org/small").join("refs").exists(), "{err}");
    expect(0, &hub, &f, &PULL);
    check_small(&f, "org/small");
    // A small file is compared by git's hash.
    let f = folder("git-hash");
    let wrong = |asked: &Asked, _| asked.path.ends_with("config.json").then(|| Reply::new(200).body(b"[]"));
    let hub = Hub::start(vec![("org/small", small())], Box::new(wrong));
    let (_, err) = expect(4, &hub, &f, &PULL);
    assert!(err.contains("git hash"), "{err}");
}

#[test]
fn a_part_of_other_bytes_is_begun_anew() {
    for (name, length) in [("wrong-part", 100_000), ("long-part", 300_001), ("whole-part", 300_000)] {
        let f = folder(name);
        let hub = Hub::honest(vec![("org/small", small())]);
        fs::create_dir_all(part(&f).parent().unwrap()).unwrap();
        fs::write(part(&f), bytes(length, 7)).unwrap();
        let (_, err) = expect(0, &hub, &f, &PULL);
        assert_eq!(err.contains("was wrong"), length <= 300_000, "{err}");
        check_small(&f, "org/small");
    }
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let f = folder("no-ranges");
    let hub = hub_with(|_, k| {
        let whole = Reply::new(200).body(&large());
        Some(if k == 0 { Reply { cut: Some(100_000), ..whole } } else { whole })
    });
    expect(0, &hub, &f, &PULL);
    check_small(&f, "org/small");
    // One that answers with another range than the one asked for.
    let f = folder("other-range");
    let hub = hub_with(|asked, k| {
        let other = || Reply::new(206).body(&large()[50_000..]).with("Content-Range", "bytes 50000-299999/300000");
        Some(if k == 0 { Reply { cut: Some(100_000), ..ranged(asked, &large()) } } else { other() })
    });
    let (_, err) = expect(4, &hub, &f, &PULL);
    assert!(err.contains("where bytes 100000-299999/300000 was expected"), "{err}");
}

/// Makes an answer.
type Make = fn() -> Reply;

#[test]
fn what_is_longer_or_shorter_than_promised_is_refused() {
    let longer = || Reply::new(200).body(&[large(), vec![0; 10]].concat());
    let shorter = || Reply::new(200).body(&large()[..1000]);
    let lying = || Reply::new(200).body(&large()).with("Content-Length", u64::MAX);
    let endless = || Reply { endless: true, ..Reply::new(200).body(&large()) };
    let all: [(&str, Make, &str); 4] = [
        ("longer", longer, "announces 300010 bytes where 300000 are expected"),
        ("shorter", shorter, "announces 1000 bytes where 300000 are expected"),
        ("lying", lying, "announces 18446744073709551615 bytes"),
        ("endless", endless, "sends more than the 300000 bytes"),
    ];
    for (name, reply, said) in all {
        let f = folder(name);
        let hub = hub_with(move |_, _| Some(reply()));
        let (_, err) = expect(4, &hub, &f, &PULL);
        assert!(err.contains(said), "{err}");
        let left = fs::metadata(part(&f)).map_or(0, |about| about.len());
        assert!(left <= 300_000, "{name} left {left} bytes");
    }
    // So is an answer of the Hub itself without end.
    let f = folder("endless-answer");
    let endless = |_: &Asked, _| Some(Reply { endless: true, ..Reply::new(200).body(b"{") });
    let hub = Hub::start(Vec::new(), Box::new(endless));
    let (_, err) = expect(4, &hub, &f, &PULL);
    assert!(err.contains("answers with more than"), "{err}");
}

#[test]
fn names_that_lead_out_of_the_folder_are_refused() {
    for name in
        ["../../../../evil.safetensors", "/tmp/evil.safetensors", "a/../../evil.safetensors", "a\\..\\evil.pt", ".."]
    {
        let f = folder("names");
        let hub = Hub::honest(vec![("org/small", vec![(name, bytes(2000, 1)), ("model.safetensors", bytes(2000, 2))])]);
        let named = ["models", "pull", "org/small", "--file", name];
        for args in [&PULL[..], &named[..]] {
            if name != ".." || args.len() > 3 {
                let (_, err) = expect(4, &hub, &f, args);
                assert!(err.contains("leads out of the model's folder"), "{err}");
            }
        }
        assert!(names(&f).is_empty() && hub.asked().iter().all(|asked| asked.path.starts_with("/api/")));
    }
    // Hashes and commits name files, too.
    for (from, to) in [(sha256(&large()), "../../../evil".to_owned()), (COMMIT.to_owned(), "../evil".to_owned())] {
        let f = folder("hashes");
        let text = server::listing(&small()).to_string().replace(&from, &to);
        let evil = move |asked: &Asked, _: usize| match asked.path.starts_with("/api/") {
            true => Some(Reply::new(200).body(text.as_bytes())),
            // Without a hash in the listing, the server is asked for the file's own.
            false if asked.method == "HEAD" => Some(Reply::new(200).with("ETag", "\"../../evil\"")),
            false => None,
        };
        let hub = Hub::start(vec![("org/small", small())], Box::new(evil));
        expect(4, &hub, &f, &PULL);
        assert!(names(&f).is_empty());
    }
}

#[test]
fn a_disk_that_is_full_is_a_limit() {
    // Known before.
    let f = folder("too-large");
    let text = server::listing(&small()).to_string().replace("300000", "4611686018427387904");
    let huge =
        move |asked: &Asked, _: usize| asked.path.starts_with("/api/").then(|| Reply::new(200).body(text.as_bytes()));
    let hub = Hub::start(vec![("org/small", small())], Box::new(huge));
    let (_, err) = expect(5, &hub, &f, &PULL);
    assert!(err.contains("4611686018.43 GB more are needed") && err.contains("HF_HUB_CACHE"), "{err}");
    assert!(names(&f).is_empty());
    // Or found out.
    let f = folder("full");
    let hub = Hub::honest(vec![("org/small", small())]);
    let line = format!("ulimit -f 200; exec {} {}", env!("CARGO_BIN_EXE_adir"), PULL.join(" "));
    let like = hub.command(&f, &[]);
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", &line]).current_dir(&f);
    like.get_envs().for_each(|(name, value)| {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    });
    let (_, err) = checked(5, &PULL, limited.output().unwrap());
    assert!(err.contains("the same command goes on from there") && part(&f).is_file(), "{err}");
    expect(0, &hub, &f, &PULL);
    check_small(&f, "org/small");
    assert_ne!(ranges(&hub)[1], None, "the part was used");
}
