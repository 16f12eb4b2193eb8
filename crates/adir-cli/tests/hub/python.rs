//! The cache is the one of `huggingface_hub`: what either has pulled, the other finds. Needs Python with that package;
//! `ADIR_PYTHON` names another one than `python3`.

use std::path::Path;
use std::process::Command;

use crate::common::{checked, folder};
use crate::server::{Hub, command};
use crate::{check_small, expect, model, names, small, snapshot};

/// A Python with `huggingface_hub`, if there is one.
fn python() -> Option<String> {
    let python = std::env::var("ADIR_PYTHON").unwrap_or_else(|_| "python3".into());
    let found =
        Command::new(&python).args(["-c", "import huggingface_hub"]).output().is_ok_and(|run| run.status.success());
    if !found {
        eprintln!("skipped: {python} has no huggingface_hub");
    }
    found.then_some(python)
}

/// Runs a script with the cache and the Hub of the test; what it printed.
#[track_caller]
fn run(python: &str, hub: &Hub, folder: &Path, script: &str) -> String {
    let like = hub.command(folder, &[]);
    let mut command = Command::new(python);
    command.args(["-c", script]).current_dir(folder);
    like.get_envs().for_each(|(name, value)| {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    });
    checked(0, &[script], command.output().unwrap()).0
}

const LOCAL: &str = "import huggingface_hub as h; \
    print(h.snapshot_download('org/small', allow_patterns=['*.json', '*.safetensors'], local_files_only=True)); \
    print(h.hf_hub_download('org/small', 'sub dir/model.safetensors', local_files_only=True)); \
    print(h.scan_cache_dir().size_on_disk, len(h.scan_cache_dir().warnings))";

const PULL: &str = "import huggingface_hub as h; \
    print(h.snapshot_download('org/small', allow_patterns=['*.json', '*.safetensors']))";

#[test]
fn huggingface_hub_finds_what_was_pulled() {
    let Some(python) = python() else { return };
    let f = folder("to-python");
    let hub = Hub::honest(vec![("org/small", small())]);
    expect(0, &hub, &f, &["models", "pull", "org/small"]);
    let before = hub.asked().len();
    let said = run(&python, &hub, &f, LOCAL);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[0], snapshot(&f, "org/small").to_str().unwrap());
    assert_eq!(lines[1], snapshot(&f, "org/small").join("sub dir/model.safetensors").to_str().unwrap());
    assert_eq!(lines[2], "300002 0", "its size, and no warning about the cache");
    assert!(
        hub.asked()[before..].iter().all(|asked| !asked.path.contains("org/small")),
        "{:?}",
        &hub.asked()[before..]
    );
    // Nor does it download again when it asks the Hub.
    run(&python, &hub, &f, PULL);
    assert!(hub.asked()[before..].iter().all(|asked| asked.method == "HEAD" || asked.path.starts_with("/api/")));
}

#[test]
fn what_huggingface_hub_pulled_is_found() {
    let Some(python) = python() else { return };
    let f = folder("from-python");
    let hub = Hub::honest(vec![("org/small", small())]);
    let said = run(&python, &hub, &f, PULL);
    assert_eq!(said.trim(), snapshot(&f, "org/small").to_str().unwrap());
    let args = ["models", "where", "org/small"];
    let (out, _) = checked(0, &args, command(&f, &args).output().unwrap());
    assert_eq!(out.trim(), snapshot(&f, "org/small").join("sub dir/model.safetensors").to_str().unwrap());
    let before = hub.asked().len();
    expect(0, &hub, &f, &["models", "pull", "org/small"]);
    assert_eq!(hub.asked().len(), before + 1, "nothing is downloaded again");
    check_small(&f, "org/small");
    assert_eq!(names(&model(&f, "org/small").join("snapshots")).len(), 1);
}
