//! The program as scripts see it: exit codes, refusals, and one whole restoration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn adir(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_adir")).args(args).current_dir(folder).output().unwrap()
}

/// Runs, checks the exit code, and returns what went to stdout and stderr.
#[track_caller]
fn expect(code: i32, folder: &Path, args: &[&str]) -> (String, String) {
    let output = adir(folder, args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}{err}");
    assert!(!err.contains("panicked"), "{err}");
    (out, err)
}

/// A folder of its own with the sample photo, cut to 64x64 and degraded, in it.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("adir-program-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let small = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/cat_small.png");
    fs::copy(small, folder.join("x.png")).unwrap();
    expect(0, &folder, &["degrade", "x.png", "-o", "y.png", "--task", "sr4"]);
    folder
}

#[test]
fn a_restoration_agrees_with_its_observation_and_repeats_byte_for_byte() {
    let f = folder("restore");
    let restore = |output: &str| {
        expect(0, &f, &["restore", "y.png", "-o", output, "--task", "sr4", "--steps", "20", "--seed", "3"]);
        fs::read(f.join(output)).unwrap()
    };
    assert_eq!(restore("a.png"), restore("b.png"));
    let (json, _) = expect(0, &f, &["compare", "x.png", "a.png", "--observed", "y.png", "--task", "sr4", "--json"]);
    let scores: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(scores["agreement_psnr"].as_f64().unwrap() > 40.0, "{json}");
    let record: serde_json::Value = serde_json::from_slice(&fs::read(f.join("a.json")).unwrap()).unwrap();
    assert_eq!(record["agreement_psnr"], scores["agreement_psnr"]);
    assert_eq!(record["seed"], 3);
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn known_pixels_of_an_inpainting_are_kept_exactly() {
    let f = folder("inpaint");
    // The sample itself serves as the mask: its bright half is unknown.
    expect(0, &f, &["degrade", "x.png", "-o", "hole.png", "--task", "inpaint", "--mask", "x.png"]);
    let args = ["restore", "hole.png", "-o", "full.png", "--task", "inpaint", "--mask", "x.png", "--steps", "5"];
    expect(0, &f, &args);
    let scores = expect(
        0,
        &f,
        &["compare", "x.png", "full.png", "--observed", "hole.png", "--task", "inpaint", "--mask", "x.png", "--json"],
    );
    // A x against y, where the degraded file holds mid-grey in the hole: only known pixels count, up to that grey.
    let scores: serde_json::Value = serde_json::from_str(&scores.0).unwrap();
    assert!(scores["agreement_psnr"].as_f64().unwrap() > 50.0, "{scores}");
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn faults_have_their_exit_codes_and_leave_no_output() {
    let f = folder("faults");
    fs::write(f.join("text.png"), "not an image").unwrap();
    fs::write(f.join("weights.safetensors"), "not weights").unwrap();
    fs::write(f.join("weights.pt"), b"\x80\x02cos\nsystem\n.").unwrap();
    let cases: [(i32, &[&str], &str); 12] = [
        (2, &["restore", "y.png", "-o", "o.png"], "--task"),
        (2, &["restore", "y.png", "-o", "o.png", "--task", "sr99"], "sr2 to sr16"),
        (2, &["restore", "y.png", "-o", "o.png", "--task", "deblur"], "--kernel"),
        (2, &["restore", "y.png", "-o", "o.png", "--task", "deblur", "--kernel", "box:0"], "0x0"),
        (2, &["restore", "y.png", "-o", "o.gif", "--task", "sr4"], "o.gif"),
        (2, &["restore", "y.png", "-o", "o.png", "--task", "sr4", "--steps", "2000"], "2000"),
        (2, &["restore", "y.png", "-o", "o.png", "--task", "sr4", "--device", "cuda"], "cuda"),
        (3, &["restore", "none.png", "-o", "o.png", "--task", "sr4"], "none.png"),
        (3, &["restore", "text.png", "-o", "o.png", "--task", "sr4"], "text.png"),
        (4, &["restore", "y.png", "-o", "o.png", "--task", "sr4", "-m", "weights.safetensors"], "weights.safetensors"),
        (4, &["restore", "y.png", "-o", "o.png", "--task", "sr4", "-m", "weights.pt"], "weights.pt"),
        (2, &["restore", "y.png", "-o", "y.png", "--task", "sr4", "--overwrite"], "input"),
    ];
    for (code, args, said) in cases {
        let (_, err) = expect(code, &f, args);
        assert!(err.contains(said), "{args:?} should mention {said:?}:\n{err}");
        assert!(!f.join("o.png").exists() && !f.join("o.json").exists(), "{args:?}");
    }
    fs::write(f.join("o.png"), "precious").unwrap();
    expect(2, &f, &["restore", "y.png", "-o", "o.png", "--task", "sr4"]);
    assert_eq!(fs::read(f.join("o.png")).unwrap(), b"precious");
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn explain_tells_every_setting_and_computes_nothing() {
    let f = folder("explain");
    let (out, _) = expect(
        0,
        &f,
        &["restore", "y.png", "-o", "o.png", "--task", "sr8", "--preset", "paper", "--eta", "0.5", "--explain"],
    );
    for line in ["strength             20", "steps                1000", "eta                  0.5", "given"] {
        assert!(out.contains(line), "{line:?} in\n{out}");
    }
    assert!(!f.join("o.png").exists());
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn verify_accepts_the_reference_and_refuses_other_weights() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../adir/tests/fixtures");
    let (weights, cases) = ("mini_legacy.weights.safetensors", "mini_legacy.cases.safetensors");
    let (json, _) = expect(0, &fixtures, &["-q", "verify", "--model", weights, "--cases", cases, "--json"]);
    let table: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(table["holds"], true);
    // The embedded prior is another network: its parameters are not those of the recording.
    assert_ne!(adir(&fixtures, &["-q", "verify", "--cases", cases]).status.code(), Some(0));
}
