//! Who may have what, where the token goes, and connections that are not to be made.

use std::fs;

use crate::common::{checked, folder};
use crate::server::{Asked, COMMIT, Hub, Reply, bytes, sha256};
use crate::{check_small, expect, names, small};

const PULL: [&str; 3] = ["models", "pull", "org/small"];

/// A Hub that answers all requests for files, or all for lists, with `reply`.
fn refusing(lists: bool, reply: Reply) -> Hub {
    let refuse = move |asked: &Asked, _: usize| (asked.path.starts_with("/api/") == lists).then(|| reply.clone());
    Hub::start(vec![("org/small", small())], Box::new(refuse))
}

#[test]
fn refusals_say_what_to_do() {
    let gated =
        |status| Reply::new(status).with("X-Error-Code", "GatedRepo").with("X-Error-Message", "Access is restricted");
    let all: [(&str, bool, Reply, i32, &[&str]); 6] = [
        ("absent", true, Reply::new(404), 2, &["there is no such model"]),
        ("unknown", true, Reply::new(401), 2, &["no such model, or it is private", "HF_TOKEN", "/settings/tokens"]),
        ("revision", true, Reply::new(404).with("X-Error-Code", "RevisionNotFound"), 2, &["no such revision"]),
        ("gated", false, gated(401), 2, &["gated", "Access is restricted", "agree to the conditions", "HF_TOKEN"]),
        ("forbidden", false, gated(403), 2, &["gated", "agree to the conditions"]),
        ("odd", true, Reply::new(418), 4, &["answers 418"]),
    ];
    for (name, lists, reply, code, said) in all {
        let f = folder(name);
        let hub = refusing(lists, reply);
        let (_, err) = expect(code, &hub, &f, &PULL);
        assert!(said.iter().all(|text| err.contains(text)), "{name}: {err}");
        let files = names(&f.join("hf/hub/models--org--small/blobs"));
        assert!(files.iter().all(|name| name.ends_with(".incomplete")), "{files:?}");
        // None of these is tried again.
        let last = hub.asked().last().unwrap().path.clone();
        assert_eq!(hub.asked_for(&last).len(), 1);
    }
    for name in ["org", "org/small/", "../small", "org/small@", "a b/c", "https://hub.org/org/small"] {
        let hub = refusing(true, Reply::new(500));
        let (_, err) = expect(2, &hub, &folder("names"), &["models", "pull", name]);
        assert!(err.contains("expected ORG/NAME") && hub.asked().is_empty(), "{err}");
    }
}

#[test]
fn the_token_goes_to_the_hub_and_to_no_other_host() {
    let f = folder("token");
    let hub = Hub::honest(vec![("org/small", small())]);
    checked(0, &PULL, hub.command(&f, &PULL).env("HF_TOKEN", "hf_secret").output().unwrap());
    check_small(&f, "org/small");
    let beyond = |asked: &Asked| asked.path == format!("/{}", sha256(&bytes(300_000, 1)));
    let (outside, inside): (Vec<_>, Vec<_>) = hub.asked().into_iter().partition(beyond);
    assert!(outside.len() == 1 && inside.len() == 3);
    assert!(inside.iter().all(|asked| asked.header("authorization") == Some("Bearer hf_secret")));
    assert!(outside.iter().all(|asked| asked.header("authorization").is_none()));
    // The file of `hf auth login`; and no token where none is wanted.
    for (disabled, expected) in [(None, Some("Bearer hf_stored")), (Some("1"), None)] {
        let f = folder("token-file");
        let hub = Hub::honest(vec![("org/small", small())]);
        fs::create_dir_all(f.join("hf")).unwrap();
        fs::write(f.join("hf/token"), "hf_stored\n").unwrap();
        let mut command = hub.command(&f, &PULL);
        disabled.map(|value| command.env("HF_HUB_DISABLE_IMPLICIT_TOKEN", value));
        let (_, err) = checked(0, &PULL, command.output().unwrap());
        assert_eq!(hub.asked()[0].header("authorization"), expected);
        assert!(!err.contains("hf_stored"));
    }
    let hub = Hub::honest(Vec::new());
    let odd = hub.command(&f, &PULL).env("HF_TOKEN", "a\nb").output().unwrap();
    checked(2, &PULL, odd);
    assert!(hub.asked().is_empty());
}

#[test]
fn a_model_that_moved_within_the_hub_is_followed_and_loops_are_not() {
    let f = folder("moved");
    let moved = |asked: &Asked, _: usize| {
        let target = asked.path.replace("org/small", "new/name");
        asked.path.contains("org/small").then(|| Reply::new(307).with("Location", target))
    };
    let hub = Hub::start(vec![("new/name", small())], Box::new(moved));
    checked(0, &PULL, hub.command(&f, &PULL).env("HF_TOKEN", "hf_secret").output().unwrap());
    check_small(&f, "org/small");
    assert!(hub.asked_for("new/name/revision/main?blobs=true")[0].header("authorization").is_some());
    let hub = refusing(true, Reply::new(302).with("Location", "/api/again"));
    let (_, err) = expect(4, &hub, &folder("loop"), &PULL);
    assert!(err.contains("redirects more than 10 times"), "{err}");
    for location in ["file:///etc/passwd", "elsewhere", "ftp://x/y"] {
        let hub = refusing(true, Reply::new(302).with("Location", location));
        let (_, err) = expect(4, &hub, &folder("odd-redirect"), &PULL);
        assert!(err.contains("redirects to"), "{err}");
    }
}

#[test]
fn a_hub_that_lists_no_hashes_is_asked_for_them() {
    let f = folder("heads");
    let bare = |asked: &Asked, _: usize| {
        let files: Vec<_> = small().iter().map(|(name, _)| serde_json::json!({"rfilename": name})).collect();
        let text = serde_json::json!({"sha": COMMIT, "siblings": files}).to_string();
        asked.path.starts_with("/api/").then(|| Reply::new(200).body(text.as_bytes()))
    };
    let hub = Hub::start(vec![("org/small", small())], Box::new(bare));
    let (_, err) = expect(0, &hub, &f, &PULL);
    check_small(&f, "org/small");
    assert!(err.contains("licence of org/small: not stated"), "{err}");
    let heads: Vec<_> = hub.asked().into_iter().filter(|asked| asked.method == "HEAD").collect();
    assert_eq!(heads.len(), 2);
    assert!(heads.iter().all(|asked| asked.path.contains("/resolve/")), "another host needs no question");
}

#[test]
fn another_hash_than_the_listed_one_is_refused_before_the_download() {
    let f = folder("linked");
    let other = |asked: &Asked, _: usize| {
        asked.path.ends_with("model.safetensors").then(|| {
            let wrong = sha256(b"other");
            Reply::new(302).with("Location", "/x").with("X-Linked-Etag", format!("\"{wrong}\""))
        })
    };
    let hub = Hub::start(
        vec![("org/small", small())],
        Box::new(
            move |asked, k| {
                if asked.path == "/x" { Some(Reply::new(200).body(&bytes(300_000, 1))) } else { other(asked, k) }
            },
        ),
    );
    let (_, err) = expect(4, &hub, &f, &PULL);
    assert!(err.contains("is listed with the hash"), "{err}");
}

#[test]
fn offline_no_connection_is_opened() {
    for name in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
        let f = folder("offline");
        let hub = Hub::honest(vec![("org/small", small())]);
        let offline = || hub.command(&f, &PULL).env(name, "yes").output().unwrap();
        let (_, err) = checked(2, &PULL, offline());
        assert!(err.contains("forbids connections") && hub.asked().is_empty(), "{err}");
        expect(0, &hub, &f, &PULL);
        let before = hub.asked().len();
        let (out, _) = checked(0, &PULL, offline());
        assert!(out.trim().ends_with("model.safetensors") && hub.asked().len() == before);
    }
}

#[test]
fn proxies_are_used_unless_the_host_is_excepted() {
    let hub = Hub::honest(vec![("org/small", small())]);
    let run = |name: &str, set: &[(&str, &str)], code: i32| {
        let f = folder(name);
        let mut command = hub.command(&f, &PULL);
        command.env("HF_ENDPOINT", "http://hub.invalid").envs(set.iter().copied());
        let (_, err) = checked(code, &PULL, command.output().unwrap());
        err
    };
    // The server is the proxy, and leads to itself: the name is one that nobody else knows.
    let address = hub.url.clone();
    for name in ["http_proxy", "HTTP_PROXY", "ALL_PROXY"] {
        run("proxy", &[(name, &address), ("NO_PROXY", "127.0.0.1")], 0);
    }
    assert!(hub.asked().iter().any(|asked| asked.header("x-through") == Some("hub.invalid:80")));
    let before = hub.asked().len();
    let err = run("no-proxy", &[("HTTP_PROXY", &address), ("NO_PROXY", "localhost,.invalid")], 4);
    assert!(err.contains("cannot be reached"), "{err}");
    let err = run("https-proxy", &[("HTTPS_PROXY", &address)], 4);
    assert!(err.contains("cannot be reached") && hub.asked().len() == before, "{err}");
    run("no-address", &[("HTTP_PROXY", "::::")], 2);
    run("no-endpoint", &[("HF_ENDPOINT", "hub.invalid")], 2);
}
